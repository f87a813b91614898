"""Toys for several tests: a data set of coloured rectangles and a model of two convolutions."""

from __future__ import annotations

import numpy as np
import pytest

from segkernel.geometry import Geometry

COLORS = ((40, 40, 40), (200, 60, 60), (60, 60, 200))


class Rectangles:
    """Rectangles of two colours on grey, 3 classes; sample i is always the same."""

    classes = ("ground", "red", "blue")
    palette = COLORS

    def __init__(self, length: int = 12, size: tuple[int, int] = (24, 32), broken: tuple[int, ...] = ()) -> None:
        self.length, self.size, self.broken = length, size, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        from segkernel.errors import DataError
        from segkernel.sample import LabelMap, Sample

        if not 0 <= index < self.length:
            raise IndexError(index)
        if index in self.broken:
            raise DataError("cannot be read", f"image_{index}.png")
        rng = np.random.default_rng(index)
        labels = np.zeros(self.size, np.uint8)
        for label in (1, 2):
            top, left = rng.integers(0, self.size[0] - 8), rng.integers(0, self.size[1] - 8)
            labels[top : top + 8, left : left + 8] = label
        noise = rng.integers(-30, 30, (*self.size, 3))
        image = np.clip(np.array(COLORS)[labels] + noise, 0, 255).astype(np.uint8)
        return Sample({"seg": LabelMap(labels)}, {"name": f"image_{index}"}, image)


class Mirror(Geometry):
    """Left becomes right."""

    def size(self, size):
        return size

    def raster(self, array, interpolation, fill):
        return array[:, ::-1]


class FlipOrNot:
    """A minimal random transform."""

    needs = 0

    def __call__(self, sample, rng):
        return sample.apply(Mirror()) if rng.random() < 0.5 else sample


def make_model(dropout: float = 0.2):
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    from segkernel.interfaces.model import PixelClasses, Segmentor

    class TinySegmentor(Segmentor):
        def __init__(self) -> None:
            super().__init__()
            layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(dropout)]
            self.body = nn.Sequential(*layers, nn.Conv2d(8, 3, 1))
            self.outputs = {"seg": PixelClasses(classes=3, out_channels=3)}
            self.test_cfg = {"mode": "whole"}

        def forward(self, images):
            return self.body(images)

        def loss(self, images, targets):
            return self.single_pass(images, targets)[1]

        def single_pass(self, images, targets):
            logits = self(images)
            accuracy = (logits.argmax(1) == targets["seg"]).float().mean() * 100
            loss = cross_entropy(logits, targets["seg"], ignore_index=255)
            return {"seg": logits}, {"decode.loss_ce": loss, "decode.acc_seg": accuracy}

        def predict(self, images):
            return {"seg": self(images)}

    torch.manual_seed(0)
    return TinySegmentor()


class PixelAccuracy:
    """A minimal metric."""

    def __init__(self) -> None:
        self.right = self.total = 0

    def update(self, prediction, target) -> None:
        self.right += int((prediction.labels.cpu() == target["seg"].cpu()).sum())
        self.total += target["seg"].numel()

    def merge(self, other) -> None:
        self.right += other.right
        self.total += other.total

    def compute(self) -> dict[str, float]:
        return {"mIoU": 100 * self.right / max(self.total, 1)}


@pytest.fixture
def rectangles():
    return Rectangles


@pytest.fixture
def flip_or_not():
    return FlipOrNot


@pytest.fixture
def tiny_model():
    return make_model


@pytest.fixture
def pixel_accuracy():
    return PixelAccuracy


@pytest.fixture
def make_runner(tmp_path):
    """Return a function that makes a runner over the toys; keyword arguments replace its parts."""
    import torch

    from segkernel import Evaluation
    from segkernel.data import Loader
    from segkernel.engine import LocalEngine
    from segkernel.runner import Runner

    def make(**changes):
        loader = Loader(Rectangles(), [FlipOrNot()], micro_batch=2, workers=changes.pop("workers", 0))
        arguments = {
            "train": loader,
            "val": Loader(Rectangles(4), micro_batch=2),
            "test": Loader(Rectangles(4), micro_batch=2),
            "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            "iterations": 12,
            "val_interval": 5,
            "batch_size": 4,
            "evaluation": Evaluation([PixelAccuracy()]),
            "engine": LocalEngine("cpu"),
            "work_dir": tmp_path / "run",
        }
        return Runner(changes.pop("model", None) or make_model(), **(arguments | changes))

    return make
