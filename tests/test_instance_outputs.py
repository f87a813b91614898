"""A model of instances in the commands and hooks of the other packages: files, pictures, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import Evaluation, Predictor
from segkernel.errors import UsageError
from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Segmentor
from segkernel.runner import Runner
from segkernel.sample import Sample, Targets
from segplug_datasets import image, predict_images, predict_video
from segplug_datasets.fields import Boxes, InstanceMasks, ObjectValues
from segplug_datasets.pictures_hook import PicturesHook
from segplug_datasets.predict.ensemble import Ensemble
from segplug_instances import COCOMetric, Instances
from segplug_training import TensorBoardHook

SIZE = (48, 64)


class BrightBox(Segmentor):
    """Finds the bright rectangle of an image, an object of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {"seg": Instances(2, convention="detectron2")}
        self.test_cfg = {"mode": "whole"}
        self.weight = nn.Parameter(torch.zeros(()))

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        return {"loss": self.weight**2}

    def predict(self, images: Tensor) -> dict[str, Any]:
        return {"seg": [self._find(image.mean(0) > 0) for image in images]}

    @staticmethod
    def _find(bright: Tensor) -> dict[str, Tensor]:
        rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
        box = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        sure = {"scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
        return {"boxes": box[None], **sure, "masks": torch.ones(1, 28, 28)}


class Rectangles:
    """Three images with one bright rectangle each, of class 1, and one of class 0 that is not seen."""

    classes, palette = ("dark", "bright"), ((200, 0, 0), (0, 200, 0))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        pixels, masks = np.zeros((*SIZE, 3), np.uint8), np.zeros((*SIZE, 1), np.uint8)
        box = [4 + 8 * index, 8, 36 + 8 * index, 40]
        window = slice(box[1], box[3]), slice(box[0], box[2])
        pixels[window], masks[window] = 255, 1
        fields = {"boxes": Boxes(np.array([box], np.float32)), "instances": InstanceMasks(masks)}
        fields["classes"] = ObjectValues(np.array([1]))
        return Sample(fields, {"name": f"box_{index}"}, pixels)


PREPROCESS: dict[str, Any] = {"mean": [127] * 3, "std": [1] * 3}


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(BrightBox(), classes=["dark", "bright"], preprocess=PREPROCESS)


def test_validation_and_test_measure_and_draw_objects(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = BrightBox()
    runner = Runner(
        model,
        train=Rectangles(),
        val=Rectangles(),
        test=Rectangles(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        iterations=1,
        val_interval=1,
        preprocessor=Preprocessor(**PREPROCESS),
        evaluation=Evaluation(metrics=[COCOMetric()]),
        hooks=[PicturesHook(count=2, validation=True), TensorBoardHook(pictures=1)],
        work_dir=tmp_path,
    )
    runner.run()
    metrics = runner.metrics
    assert metrics["bbox_AP"] == metrics["segm_AP"] == metrics["bbox_AP.bright"] == pytest.approx(100)
    assert np.isnan(metrics["bbox_AP.dark"])
    drawn = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("pictures/**/*.png"))
    assert drawn == [f"pictures/{folder}box_{i}.png" for folder in ("", "val_0000001/") for i in (0, 1)]
    assert image.read(tmp_path / drawn[0]).shape[1] == 2 * SIZE[1]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (picture,) = events.Images("val_pictures/box_0")
    assert (picture.width, picture.height) == (3 * SIZE[1], SIZE[0])


def test_predictions_are_drawn_and_listed_as_in_a_coco_file(predictor: Predictor, tmp_path: Path) -> None:
    for index in range(2):
        image.write(tmp_path / "in" / f"{index}.png", Rectangles()[index].image)
    found = list(predict_images(predictor, tmp_path / "in", tmp_path / "out", formats=["overlays", "labels", "rle"]))
    assert found[1]["seg"]["masks"].sum() == 32 * 32
    assert not (tmp_path / "out" / "pred").exists()
    picture = image.read(tmp_path / "out" / "vis" / "1.png")
    assert picture.shape[1] == SIZE[1]
    assert (picture[30:60] != 255).any()
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["name"] for entry in document["categories"]] == ["dark", "bright"]
    one, two = document["annotations"]
    assert (one["image_id"], two["image_id"], two["category_id"], two["bbox"]) == (1, 2, 1, [12.0, 8.0, 32.0, 32.0])
    with pytest.raises(UsageError, match="format colors is for classes of pixels"):
        list(predict_images(predictor, tmp_path / "in", tmp_path / "out", formats=["colors"]))
    with pytest.raises(UsageError, match="an ensemble averages probabilities"):
        Ensemble([predictor, predictor])


def test_a_video_shows_the_objects_of_every_frame(predictor: Predictor, tmp_path: Path) -> None:
    from segplug_datasets.predict.video import VideoFile

    video = VideoFile(tmp_path / "a.mp4", 5)
    for index in range(3):
        video.write(Rectangles()[index].image)
    video.close()
    found = list(predict_video(predictor, tmp_path / "a.mp4", tmp_path / "out"))
    assert len(found) == 3
    assert (tmp_path / "out" / "vis" / "a.mp4").is_file()
    with pytest.raises(UsageError, match="smoothing averages the probabilities of pixels"):
        list(predict_video(predictor, tmp_path / "a.mp4", smoothing=0.5))
