"""`LabelsHook`: which warnings it logs about the labels, and when it stops a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Loader, Runner
from segkernel.errors import DataError
from segkernel.testing.toys import ToySegmentor
from segplug_datasets import image, labels_hook
from segplug_datasets.concat import ConcatDataset
from segplug_datasets.files import FolderDataset
from segplug_datasets.labels_hook import LabelsHook

CLASSES = ["ground", "sky", "wall", "crack"]
Labels = Callable[[int], np.ndarray]


def data(folder: Path, labels: Labels, count: int = 6, **arguments: Any) -> FolderDataset:
    """Write images and label files; return them as a data set."""
    for index in range(count):
        image.write(folder / "images" / f"{index}.png", np.full((32, 32, 3), index, np.uint8))
        image.write_mask(folder / "masks" / f"{index}.png", labels(index).astype(np.uint8))
    return FolderDataset(data_root=folder, images="images", masks="masks", classes=CLASSES, **arguments)


def of(*values: int) -> Labels:
    """Labels of these values, in stripes."""
    return lambda index: np.resize(np.asarray(values), (32, 32))


def run(folder: Path, train: Any, val: Any = None, batch: int = 2, val_interval: int = 3, **arguments: Any) -> Runner:
    """Train for three steps, an epoch of six samples, with one validation unless asked for more."""
    runner = Runner(
        ToySegmentor(),
        train=Loader(train, micro_batch=batch),
        val=val,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        iterations=3,
        val_interval=val_interval,
        work_dir=folder / "run",
        **arguments,
    )
    runner.train()
    return runner


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 255), "only ground and ignored pixels, in all 6"),
        ((255,), "only ignored pixels, in all 6"),
        ((1,), "only sky, in all 6"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: ConcatDataset([part])], ids=["alone", "wrapped"])
def test_labels_of_one_class_and_ignored_pixels_end_the_run(
    tmp_path: Path, values: tuple[int, ...], said: str, wrap: Callable[[Any], Any]
) -> None:
    with pytest.raises(DataError, match=rf"data\.train contain {said}"):
        run(tmp_path, wrap(data(tmp_path, of(*values))))
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_a_validation_set_of_ignored_pixels_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.val contain only ignored pixels"):
        run(tmp_path, data(tmp_path / "a", of(0, 1, 2, 3)), data(tmp_path / "b", of(255)))


def test_more_samples_are_inspected_until_a_second_class_is_found(tmp_path: Path) -> None:
    rare = data(tmp_path, lambda index: np.full((32, 32), 1 if index == 3 else 255) * np.eye(32, dtype=int))
    run(tmp_path, rare, hooks=[LabelsHook(samples=2)])


def test_zero_samples_allow_labels_of_one_class(tmp_path: Path) -> None:
    run(tmp_path, data(tmp_path, of(0)), hooks=[LabelsHook(samples=0)])


def test_a_validation_of_one_class_chooses_no_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_hook, "_SECONDS", 0)  # a set that takes too long to be looked at as a whole
    blank = data(tmp_path / "b", of(1), count=3)
    with pytest.raises(DataError, match=r"data\.val contain only sky, in all 3 samples"):
        run(tmp_path, data(tmp_path / "a", of(0, 1, 2, 3)), blank, hooks=[LabelsHook(samples=1)])
    assert not list(tmp_path.glob("run/checkpoints/best*"))


def test_mostly_ignored_and_empty_samples_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    labels = {True: of(0, 1, 2, 3, *[255] * 8), False: of(255)}
    run(tmp_path, data(tmp_path, lambda index: labels[index < 4](index)), batch=6)
    assert "78 % of the pixels of 6 samples of train inspected are ignored" in caplog.text
    assert "2 of 6 samples of train inspected have only ignored pixels: 4, 5" in caplog.text


@pytest.mark.parametrize("val_interval", [1, 3])
def test_classes_that_never_occur_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, val_interval: int
) -> None:
    caplog.set_level(logging.WARNING)
    run(tmp_path, data(tmp_path / "a", of(0, 1, 2)), data(tmp_path / "b", of(0, 1)), val_interval=val_interval)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("labels_hook")]
    said.sort()  # a validation may come before the end of the first epoch
    assert [text.partition(" ")[0] for text in said] == ["train:", "val:"]
    assert said[0].startswith("train: crack missing in all training labels")
    assert said[1].startswith("val: wall, crack have no ground truth")


def test_valid_labels_cause_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    run(tmp_path, data(tmp_path / "a", of(0, 1, 2, 3)), data(tmp_path / "b", of(0, 1, 2, 3, 255)))
    assert not [record for record in caplog.records if record.name.endswith("labels_hook")]


def test_a_hook_of_the_config_replaces_that_of_the_data_set(tmp_path: Path) -> None:
    own = LabelsHook(samples=0)
    runner = run(tmp_path, data(tmp_path, of(0, 255)), hooks=[own])
    assert [hook for hook in runner.hooks.hooks if isinstance(hook, LabelsHook)] == [own]


def test_undetected_classes_are_named_in_the_second_half_of_training(caplog: pytest.LogCaptureFixture) -> None:
    metrics = {"mIoU": 45.0, "IoU.ground": 90.0, "IoU.crack": 0.0, "IoU.sky": float("nan")}
    settings = {"labels": SimpleNamespace(classes=CLASSES), "is_main": True, "max_iterations": 100, "config": {}}
    for iteration in (49, 50):
        caplog.clear()
        LabelsHook().after_validation(SimpleNamespace(iteration=iteration, **settings), metrics)
        named = [record.getMessage() for record in caplog.records]
        assert [message.partition(" not found")[0] for message in named] == ["val: crack"] * (iteration == 50)


@pytest.mark.parametrize(
    ("losses", "data", "named"),
    [
        ({"type": "CrossEntropyLoss"}, {}, {"SoftDiceLoss", "class_weight", "BalancedSampler"}),
        ([{"type": "CrossEntropyLoss"}, {"type": "SoftDiceLoss"}], {}, {"class_weight", "BalancedSampler"}),
        ([{"type": "segplug-heads/LovaszLoss", "class_weight": "auto"}], {"sampler": {"type": "A"}}, set()),
    ],
)
def test_the_warning_names_only_what_the_config_lacks(
    losses: Any, data: dict[str, Any], named: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = {"model": {"decode_head": {"loss_decode": losses}}, "data": data}
    labels = SimpleNamespace(classes=CLASSES)
    run = SimpleNamespace(labels=labels, is_main=True, max_iterations=2, iteration=2, config=config)
    LabelsHook().after_validation(run, {"IoU.crack": 0.0})
    words = {"SoftDiceLoss", "class_weight", "BalancedSampler"}
    assert "more iterations" in caplog.text
    assert {word for word in words if word in caplog.text} == named


def test_label_maps_do_not_matter_to_a_model_of_objects(tmp_path: Path) -> None:
    dataset = data(tmp_path, of(0, 255))
    parts: Any = {"iteration": 0, "train_set": SimpleNamespace(dataset=dataset), "val_set": None}
    run: Any = SimpleNamespace(**parts, labels=dataset.labels, config={}, model=SimpleNamespace(outputs={}))
    with pytest.raises(DataError, match="only ground"):
        LabelsHook().before_train(run)
    run.model.outputs = {"seg": object()}  # no map
    LabelsHook().before_train(run)
