"""``class_weight: auto`` is what ``data stats`` proposes, in the losses, the config and the checkpoints of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import build, checkpoint
from segkernel.errors import ConfigError, UsageError
from segkernel.experiment import make_runner, run
from segkernel.labels import Labels
from segkernel.loading import load_model
from segkernel.nn import CrossEntropyLoss
from segplug_datasets import image
from segplug_datasets.class_weights_hook import ClassWeightsHook, positive_weights
from segplug_datasets.doctor import inspect, parts_of_folders
from segplug_datasets.doctor.stats import class_weights, measure
from segplug_datasets.files import FolderDataset

CLASSES = ("ground", "wall", "door", "sky")
# Of the pixels that count in images with a class: ground 16 of 24, wall 4 of 16, door 4 of 8; the median is a half.
WEIGHTS = [0.75, 2.0, 1.0, 1.0]
MODULE = """
from segkernel.nn import CrossEntropyLoss
from segkernel.interfaces.model import Loss
from segkernel.testing.toys import ToySegmentor

class Weighted(ToySegmentor):
    def __init__(self, loss_decode: Loss) -> None:
        super().__init__()
        self.loss_decode = loss_decode

    def loss(self, images, targets):
        return {"loss": self.loss_decode(self(images), targets["seg"])}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images; of the second's pixels half are ignored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weighted_toy.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    first, second = (np.zeros((4, 4), np.uint8) for _ in range(2))
    first[0] = 1
    second[:2] = 255
    second[2] = 2
    for number, labels in enumerate((first, second)):
        image.write(f"images/{number}.png", np.full((4, 4, 3), 40 * number, np.uint8))
        image.write_mask(f"masks/{number}.png", labels)
    return tmp_path


def config(class_weight: Any = "auto", iterations: int = 1) -> dict[str, Any]:
    loss = {"type": "CrossEntropyLoss", "class_weight": class_weight}
    data = {"type": "FolderDataset", "images": "images", "masks": "masks", "classes": list(CLASSES)}
    return {
        "model": {"type": "weighted_toy:Weighted", "loss_decode": {**loss, "type": "segkernel.nn:CrossEntropyLoss"}},
        "data": {"train": data, "workers": 0},
        "optim": {"optimizer": {"type": "SGD", "lr": 0.1}},
        "schedule": {"iterations": iterations},
        "engine": {"type": "LocalEngine", "device": "cpu"},
    }


def test_a_run_weights_classes_as_data_stats_proposes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        runner = run(config(), work_dir="run")
    assert runner.model.loss_decode.class_weight == WEIGHTS
    (stats,) = measure(inspect(parts_of_folders("images", "masks", list(CLASSES), {}), 0))
    assert class_weights(stats)["median_frequency"] == WEIGHTS
    assert "by median frequency: ground 0.75, wall 2, door 1, sky 1" in caplog.text
    assert caplog.text.count("counts the classes of 2 training samples") == 1


def test_a_checkpoint_holds_numbers_and_stands_alone(folder: Path) -> None:
    given = config()
    run(given, work_dir="run")
    assert given == config()  # it is left as it was
    path = Path("run/checkpoints/iter_0000001.pt")
    stored = checkpoint.load(path)["meta"]["config"]["model"]["loss_decode"]
    assert stored == {"type": "segkernel.nn:CrossEntropyLoss", "class_weight": WEIGHTS}
    assert load_model(path, trust=True).model.loss_decode.class_weight == WEIGHTS


def test_a_resumed_run_takes_the_weights_of_its_checkpoint(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(config(), work_dir="run")
    image.write_mask("masks/0.png", np.ones((4, 4), np.uint8))
    with caplog.at_level(logging.INFO):
        caplog.clear()
        runner = run(config(iterations=2), work_dir="run", resume=True)
    assert runner.model.loss_decode.class_weight == WEIGHTS
    assert runner.config["model"]["loss_decode"]["class_weight"] == WEIGHTS
    assert "class_weight" not in caplog.text


def test_independent_classes_get_the_weight_of_their_positive_pixels(folder: Path) -> None:
    image.write_mask("several/0.png", np.uint8([[1, 1, 2, 2], [0, 0, 2, 2]]))  # bits of a and of b
    image.write_mask("several/1.png", np.uint8([[1, 1, 1, 1], [0, 0, 0, 0]]))
    for number in range(2):
        image.write(f"images/{number}.png", np.zeros((2, 4, 3), np.uint8))
    dataset = FolderDataset("images", "several", classes=("a", "b", "c"), task="multilabel")
    assert positive_weights(dataset, "seg", 3) == [1.6667, 3.0, 1.0]
    run = SimpleNamespace(
        model=CrossEntropyLoss(class_weight="auto", use_sigmoid=True),
        config={},
        train_set=SimpleNamespace(dataset=dataset),
        labels=dataset.labels,
        is_main=True,
        engine=SimpleNamespace(agree=lambda value: value),
    )
    ClassWeightsHook().before_run(run)
    assert run.model.class_weight == [1.6667, 3.0, 1.0]


def test_the_loss_is_that_of_the_numbers(folder: Path) -> None:
    losses = []
    for class_weight in ("auto", WEIGHTS):
        runner = run(config(class_weight), work_dir=f"run_{len(losses)}")
        losses.append(torch.cat([value.flatten() for value in runner.model.state_dict().values()]))
    assert torch.equal(*losses)


def test_numbers_are_left_alone(folder: Path) -> None:
    assert run(config([1, 2, 3, 4]), work_dir="run").model.loss_decode.class_weight == [1, 2, 3, 4]


def test_a_test_has_no_weights_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = config()
    given["data"]["test"] = given["data"].pop("train")
    from segkernel import load_config

    runner = make_runner(load_config(given), "run", training=False)
    runner.test()
    runner.close()
    assert runner.model.loss_decode.class_weight is None
    assert "class_weight: auto needs a training set" in caplog.text


def test_heads_get_the_weights_of_their_own_labels(folder: Path) -> None:
    image.write_mask("other/0.png", np.zeros((4, 4), np.uint8))
    image.write_mask("other/1.png", np.tri(4, k=-1, dtype=np.uint8))  # 10 of a, 6 of b
    masks = {"seg": {"path": "masks", "classes": CLASSES}, "kind": {"path": "other", "classes": ["a", "b", "c"]}}
    losses = {name: CrossEntropyLoss(class_weight="auto") for name in ("seg", "fine", "kind")}
    model = torch.nn.Module()
    model.heads = torch.nn.ModuleDict(losses)
    model.labels = {"fine": "kind"}  # type: ignore[assignment]
    heads = {name: {"class_weight": "auto"} for name in losses}
    started = SimpleNamespace(
        model=model,
        train_set=SimpleNamespace(dataset=FolderDataset("images", masks)),
        labels=Labels(CLASSES),
        engine=SimpleNamespace(agree=lambda value: value),
        is_main=True,
        config={"model": {"heads": heads}},
    )
    ClassWeightsHook().before_run(started)
    kind = [round(0.59375 / 0.8125, 4), round(0.59375 / 0.375, 4), 1.0]  # a 26 of 32, b 6 of 16, c never
    expected = {"seg": WEIGHTS, "fine": kind, "kind": kind}
    assert {name: loss.class_weight for name, loss in losses.items()} == expected
    assert started.config["model"]["heads"] == {name: {"class_weight": found} for name, found in expected.items()}


def test_labels_without_classes_are_refused(folder: Path) -> None:
    model = torch.nn.Module()
    model.heads = torch.nn.ModuleDict({"height": CrossEntropyLoss(class_weight="auto")})
    started = SimpleNamespace(
        model=model, train_set=SimpleNamespace(dataset=[]), labels=Labels(CLASSES), is_main=True, config={}
    )
    with pytest.raises(UsageError, match="needs labels 'height' with classes"):
        ClassWeightsHook().before_run(started)


def test_outside_a_run_auto_is_an_error() -> None:
    loss = build("losses", {"type": "segkernel.nn:CrossEntropyLoss", "class_weight": "auto"})
    with pytest.raises(ConfigError, match="auto is only computed in a training run"):
        loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
