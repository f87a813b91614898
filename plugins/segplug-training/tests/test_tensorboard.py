"""TensorBoardHook in real runs, read back with TensorBoard's reader."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from segkernel import Evaluation
from segkernel.errors import SegKernelError, UsageError
from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.runner import Runner
from segkernel.sample import LabelMap, Prediction, Sample, Targets
from segplug_training import TensorBoardHook
from segplug_training.tensorboard import painted, shown


class TwoHalves:
    """Images whose right half is the other class."""

    classes = ("left", "right")
    palette = ((255, 0, 0), (0, 0, 255))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        labels = np.zeros((8, 8), np.uint8)
        labels[:, 4:] = 1
        image = np.repeat(labels[..., None] * 200, 3, 2)
        return Sample({"seg": LabelMap(labels)}, {"name": f"half_{index}"}, image)


class Tiny(Segmentor):
    """One convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = {"seg": PixelClasses(2, 2)}
        self.test_cfg = {"mode": "whole"}
        self.conv = torch.nn.Conv2d(3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images)

    def loss(self, images: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
        return self.single_pass(images, targets)[1]

    def single_pass(
        self, images: torch.Tensor, targets: Targets
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        logits = self(images)
        return {"seg": logits}, {"decode.loss_ce": torch.nn.functional.cross_entropy(logits, targets["seg"])}

    def predict(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"seg": self(images)}


class RightShare:
    """The share of pixels that are right, and the same under the name of a class."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def update(self, prediction: Prediction, target: Targets) -> None:
        self.shares.append(float((prediction.labels == target["seg"]).float().mean()))

    def merge(self, other: Any) -> None:
        self.shares += other.shares

    def compute(self) -> Mapping[str, float]:
        return {"aAcc": float(np.mean(self.shares)), "IoU.left": 0.5}


def make(work_dir: Path, iterations: int, hooks: Sequence[Any] | None = None, **options: Any) -> Runner:
    model = Tiny()
    return Runner(
        model,
        train=TwoHalves(),
        val=TwoHalves(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        iterations=iterations,
        val_interval=10,
        evaluation=Evaluation(metrics=[RightShare()]),
        hooks=[TensorBoardHook()] if hooks is None else hooks,
        work_dir=work_dir,
        **options,
    )


def events(work_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(work_dir / "tensorboard")).Reload()


def steps(work_dir: Path, tag: str) -> list[int]:
    return [event.step for event in events(work_dir).Scalars(tag)]


def test_losses_rate_speed_and_metrics_become_curves(tmp_path: Path) -> None:
    make(tmp_path, iterations=20).run()
    tags = set(events(tmp_path).Tags()["scalars"])
    assert {"train/loss", "train/decode.loss_ce", "train/lr", "train/images_per_second"} <= tags
    assert {"val/aAcc", "val/loss", "val_IoU/left"} <= tags
    assert steps(tmp_path, "train/loss") == [10, 20]
    assert steps(tmp_path, "val/aAcc") == [10, 20]


def test_values_are_those_of_the_run(tmp_path: Path) -> None:
    runner = make(tmp_path, iterations=10)
    metrics = runner.run()
    assert events(tmp_path).Scalars("val/loss")[0].value == pytest.approx(metrics["loss"], abs=1e-6)
    assert events(tmp_path).Scalars("train/lr")[0].value == pytest.approx(0.1)


def test_the_test_after_training_is_written_too(tmp_path: Path) -> None:
    make(tmp_path, iterations=10, test=TwoHalves()).run()
    assert steps(tmp_path, "test/aAcc") == [10]
    assert steps(tmp_path, "test_IoU/left") == [10]


def test_the_same_images_are_drawn_at_every_validation(tmp_path: Path) -> None:
    make(tmp_path, iterations=20, hooks=[TensorBoardHook(interval=2)], test=TwoHalves()).run()
    found = events(tmp_path)
    names = ["half_0", "half_2"]
    assert found.Tags()["images"] == [f"{kind}_pictures/{name}" for kind in ("val", "test") for name in names]
    assert [event.step for event in found.Images("val_pictures/half_0")] == [10, 20]
    content = found.Images("val_pictures/half_0")[0].encoded_image_string
    image, truth, predicted = np.split(np.asarray(Image.open(io.BytesIO(content))), 3, axis=1)
    assert (image == TwoHalves()[0].image).all()
    assert truth[0, [0, 7]].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert {tuple(color) for color in predicted.reshape(-1, 3)} <= {(255, 0, 0), (0, 0, 255)}


def test_maps_of_every_kind_are_painted() -> None:
    palette = [(200, 0, 0), (0, 200, 0)]
    assert painted(np.array([[0, 1, 255]], np.uint8), palette).tolist() == [[[200, 0, 0], [0, 200, 0], [0, 0, 0]]]
    planes = np.array([[[1, 1, 0, 255]], [[0, 1, 0, 0]]], np.uint8)
    assert painted(planes, palette).tolist() == [[[200, 0, 0], [0, 200, 0], [0, 0, 0], [0, 0, 0]]]
    depths = painted(np.array([[1, 3, np.nan, 9]], np.float32), palette)
    assert depths.tolist() == [[[0] * 3, [63] * 3, [0] * 3, [255] * 3]]
    assert shown(np.full((2, 2, 5), 7, np.int16)).tolist() == [[[0] * 3] * 2] * 2


def test_the_first_and_every_fiftieth_image_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(TwoHalves, "__len__", lambda self: 120)
    make(tmp_path / "all", iterations=1).run()
    make(tmp_path / "two", iterations=1, hooks=[TensorBoardHook(pictures=2)]).run()
    assert events(tmp_path / "all").Tags()["images"] == [f"val_pictures/half_{index}" for index in (0, 50, 100)]
    assert events(tmp_path / "two").Tags()["images"] == [f"val_pictures/half_{index}" for index in (0, 50)]


def test_config_and_hyperparameters_are_written(tmp_path: Path) -> None:
    config = {"model": {"type": "Tiny"}, "optim": {"optimizer": {"lr": 0.1}}, "hooks": [{"type": "X"}]}
    runner = make(tmp_path, iterations=10, config=config, seed=3)
    runner.run()
    found = events(tmp_path)
    (text,) = found.Tensors("config/text_summary")
    assert "    model:\n      type: Tiny\n" in text.tensor_proto.string_val[0].decode()
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.number_value or value.string_value for name, value in start.items()} == {
        "model.type": "Tiny", "optim.optimizer.lr": 0.1, "iterations": 10, "seed": 3
    }  # fmt: skip
    assert found.Scalars("final/aAcc")[0].value == pytest.approx(runner.metrics["aAcc"])


def test_a_graph_is_traced_on_demand_and_training_is_as_without_it(tmp_path: Path) -> None:
    plain, traced = (
        make(tmp_path / str(graph), iterations=3, hooks=[TensorBoardHook(graph=graph)]) for graph in (False, True)
    )
    for runner in (plain, traced):
        torch.manual_seed(0)
        torch.nn.init.normal_(runner.model.conv.weight)
        torch.nn.init.zeros_(runner.model.conv.bias)
        runner.run()
    assert [events(tmp_path / name).Tags()["graph"] for name in ("False", "True")] == [False, True]
    assert torch.equal(plain.model.conv.weight, traced.model.conv.weight)
    assert "conv" in str(events(tmp_path / "True").Graph())


def test_an_untraceable_model_has_no_graph(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runner = make(tmp_path, iterations=2, hooks=[TensorBoardHook(graph=True)])
    runner.model.forward = lambda images: {"not": "tensors"}
    runner.model.loss = lambda images, targets: {"loss": runner.model.conv(images).sum()}
    runner.val_set = None
    runner.run()
    assert "graph of the model is skipped" in caplog.text


def test_images_can_be_disabled(tmp_path: Path) -> None:
    make(tmp_path, iterations=10, hooks=[TensorBoardHook(pictures=0)]).run()
    assert events(tmp_path).Tags()["images"] == []


def test_the_run_says_how_to_look_at_the_curves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "segkernel"):
        make(tmp_path, iterations=1).run()
    assert f"tensorboard --logdir {tmp_path / 'tensorboard'}" in caplog.text


def test_resuming_hides_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    runner = make(tmp_path, iterations=20)
    runner.train()
    runner.save(tmp_path / "at_20.pt")
    runner.close()
    lost = make(tmp_path, iterations=40)
    lost.resume(tmp_path / "at_20.pt")
    lost.run()
    again = make(tmp_path, iterations=30)
    again.resume(tmp_path / "at_20.pt")
    again.run()
    assert steps(tmp_path, "train/loss") == [10, 20, 30]


def test_a_test_alone_writes_no_events(tmp_path: Path) -> None:
    runner = Runner(
        Tiny(),
        test=TwoHalves(),
        evaluation=Evaluation(metrics=[RightShare()]),
        hooks=[TensorBoardHook()],
        work_dir=tmp_path,
    )
    runner.run()
    assert not (tmp_path / "tensorboard").exists()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    hook = TensorBoardHook()
    hook.before_train(SimpleNamespace(is_main=False, work_dir=tmp_path, iteration=0, config={}))
    hook.on_record({"kind": "train", "iteration": 10, "loss": 1.0})
    assert not (tmp_path / "tensorboard").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(SegKernelError, match="tensorboard: cannot write"):
        TensorBoardHook().before_train(SimpleNamespace(is_main=True, work_dir=tmp_path, iteration=0, config={}))


def test_a_negative_number_of_images_is_refused() -> None:
    with pytest.raises(UsageError, match="pictures"):
        TensorBoardHook(pictures=-1)
