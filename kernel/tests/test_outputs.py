"""Outputs of a segmentor: maps of classes and of numbers, and a kind of output from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import Evaluation
from segkernel.data import Loader
from segkernel.errors import UntrustedError, UsageError
from segkernel.inference import Preprocessor, infer, predict_batch
from segkernel.interfaces.model import Output, PixelClasses, Segmentor, output_of
from segkernel.sample import ObjectField, Sample, collate


@dataclass(frozen=True)
class BoxOutput(Output):
    """Boxes (objects, 4) of left, top, right, bottom and their scores (objects,): a list of one mapping per image."""

    classes: int = 1

    def resize(self, raw: list[dict], old: tuple[int, int], new: tuple[int, int]) -> list[dict]:
        factor = torch.tensor([new[1] / old[1], new[0] / old[0]] * 2)
        return [{**image, "boxes": image["boxes"] * factor} for image in raw]

    def flip(self, raw: list[dict], size: tuple[int, int]) -> list[dict]:
        def mirrored(boxes: Tensor) -> Tensor:
            left, top, right, bottom = boxes.unbind(1)
            return torch.stack([size[1] - right, top, size[1] - left, bottom], 1)

        return [{**image, "boxes": mirrored(image["boxes"])} for image in raw]

    def crop(self, raw: list[dict], size: tuple[int, int]) -> list[dict]:
        limit = torch.tensor([size[1], size[0]] * 2)
        return [{**image, "boxes": image["boxes"].clamp(min=0).minimum(limit)} for image in raw]

    def merge(self, merged: list[dict] | None, raw: list[dict]) -> list[dict]:
        if merged is None:
            return raw
        return [{key: torch.cat([a[key], b[key]]) for key in a} for a, b in zip(merged, raw)]

    def decode(self, raw: list[dict], activated: bool = False) -> dict[str, Tensor]:
        (image,) = raw
        best = image["scores"].argmax()
        agreed = (image["boxes"] - image["boxes"][best]).abs().amax(1) < 4  # views of one object are averaged
        return {"boxes": image["boxes"][agreed].mean(0, keepdim=True), "scores": image["scores"][best][None]}


class Detector(Segmentor):
    """Finds the bright rectangle of an image: one box, whose score is the share of it that is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {"seg": BoxOutput()}
        self.test_cfg = {"mode": "whole"}
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []

    def predict(self, images: Tensor) -> dict[str, Any]:
        self.seen.append(tuple(images.shape))
        return {"seg": [self._find(image.mean(0) > 0) for image in images]}

    @staticmethod
    def _find(bright: Tensor) -> dict[str, Tensor]:
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        box = torch.cat([columns.min()[None], rows.min()[None], columns.max()[None] + 1, rows.max()[None] + 1])
        share = bright.sum() / ((box[2] - box[0]) * (box[3] - box[1]))
        return {"boxes": box[None].float(), "scores": share[None]}


class Bright:
    """Images of several sizes with one bright rectangle and its box."""

    classes, palette = ("thing",), ((255, 0, 0),)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        image = np.zeros((40 + 8 * index, 56, 3), np.uint8)
        box = [4 + 8 * index, 8, 28 + 8 * index, 32]
        image[box[1] : box[3], box[0] : box[2]] = 255
        return Sample({"boxes": ObjectField(np.array([box], np.float32))}, {"name": str(index)}, image)


class BoxError:
    """The mean distance of box edges in pixels."""

    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, prediction: Any, target: Any) -> None:
        self.errors.append(float((prediction["seg"]["boxes"].cpu() - target["boxes"].cpu()).abs().mean()))

    def merge(self, other: BoxError) -> None:
        self.errors += other.errors

    def compute(self) -> dict[str, float]:
        return {"box_error": float(np.mean(self.errors)), "images": float(len(self.errors))}


def batch_and_images(padding: int = 16) -> tuple[Any, Tensor]:
    batch = collate([Bright()[index] for index in range(3)])
    preprocessor = Preprocessor((127,) * 3, (1,) * 3, test_cfg={"size_divisor": padding}).eval()
    return batch, preprocessor(batch)[0]


@pytest.mark.parametrize("tta", [None, {"scales": (1.0, 2.0), "flip": True}])
def test_boxes_of_padded_scaled_and_mirrored_views_are_at_the_original_size(tta: Any) -> None:
    batch, images = batch_and_images()
    batch.original_sizes = [(2 * height, 2 * width) for height, width in batch.sizes]
    model = Detector()
    found = predict_batch(model.predict, batch, images, outputs=model.outputs, tta=tta)
    assert len(model.seen) == (4 if tta else 1)
    for index, prediction in enumerate(found):
        expected = 2 * torch.from_numpy(Bright()[index].fields["boxes"].array)
        torch.testing.assert_close(prediction["seg"]["boxes"], expected, atol=2, rtol=0)


def test_boxes_of_an_image_and_its_mirror_are_merged() -> None:
    _, images = batch_and_images()
    found = infer(Detector().predict, images, {"seg": BoxOutput()}, {"mode": "whole_flip"})["seg"]
    assert [len(image["boxes"]) for image in found] == [2, 2, 2]
    assert all(torch.equal(image["boxes"][0], image["boxes"][1]) for image in found)


def test_a_runner_tests_boxes(make_runner) -> None:
    evaluation = Evaluation([BoxError()], tta={"scales": (1.0,), "flip": True})
    runner = make_runner(
        model=Detector(), train=None, val=None, test=Loader(Bright(), micro_batch=2), evaluation=evaluation,
        preprocessor=Preprocessor((127,) * 3, (1,) * 3),
    )  # fmt: skip
    assert runner.test() == {"box_error": 0.0, "images": 3.0}


def test_an_output_that_cannot_be_merged_over_windows_raises() -> None:
    _, images = batch_and_images()
    slide = {"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)}
    with pytest.raises(UsageError, match="BoxOutput cannot be merged over sliding windows; use mode: whole"):
        infer(Detector().predict, images, {"seg": BoxOutput()}, slide)


def test_fields_that_are_mappings_move_with_their_prediction() -> None:
    batch, images = batch_and_images()
    model = Detector()
    (first, *_) = predict_batch(model.predict, batch, images, outputs=model.outputs)
    assert first.to("meta")["seg"]["boxes"].is_meta


def test_an_output_is_rebuilt_from_its_config() -> None:
    output = PixelClasses(3, 3, align_corners=True)
    assert output_of(output.config()) == output


def test_outputs_in_files_before_0_3_were_maps_of_classes() -> None:
    old = {"classes": 3, "out_channels": 3, "activation": "softmax", "threshold": None}
    assert output_of(old) == PixelClasses(3, 3)
    with pytest.raises(UsageError, match="export the model again"):
        output_of({**old, "out_channels": 1, "activation": "none"})


def test_a_file_cannot_name_an_import_path() -> None:
    with pytest.raises(UntrustedError, match="import path os:system"):
        output_of({"type": "os:system"})
