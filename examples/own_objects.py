"""Train your own module on your own data set, with no config and no plugin.

python examples/own_objects.py [ITERATIONS]
"""

import logging
import sys

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from segkernel import Evaluation, Loader, Runner, hookimpl
from segkernel.engine import LocalEngine
from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.sample import LabelMap, Sample


class Discs:
    """A data set is any object with classes, a palette, a length and samples."""

    classes = ("ground", "disc")
    palette = ((60, 60, 60), (230, 120, 40))

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        row, column = np.mgrid[:48, :64]
        top, left, radius = rng.integers(10, 38), rng.integers(10, 54), rng.integers(5, 10)
        label = ((row - top) ** 2 + (column - left) ** 2 < radius**2).astype(np.uint8)
        image = 90 + 60 * label[..., None] + rng.integers(-40, 40, (48, 64, 3))
        return Sample({"seg": LabelMap(label)}, {"name": f"disc_{index}"}, image.astype(np.uint8))


class TwoConvs(Segmentor):
    """A model has a loss and a prediction, and describes its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 2, 5, padding=2))
        self.outputs = {"seg": PixelClasses(classes=2, out_channels=2)}
        self.test_cfg = {"mode": "whole"}

    def forward(self, images):
        return self.body(images)

    def loss(self, images, targets):
        return {"loss": cross_entropy(self(images), targets["seg"], ignore_index=255)}

    def predict(self, images):
        return {"seg": self(images)}


class DiscIoU:
    """A metric is updated with one image at a time."""

    def __init__(self) -> None:
        self.both = self.either = 0

    def update(self, prediction, target) -> None:
        found, true = prediction.labels == 1, target["seg"] == 1
        self.both += int((found & true).sum())
        self.either += int((found | true).sum())

    def merge(self, other) -> None:
        self.both, self.either = self.both + other.both, self.either + other.either

    def compute(self) -> dict[str, float]:
        return {"mIoU": 100 * self.both / max(self.either, 1)}


class StopWhenGood:
    """A hook is any object with marked methods."""

    @hookimpl
    def after_validation(self, run, metrics) -> None:
        if metrics["mIoU"] > 90:
            run.stop("good enough")


def main(iterations: int = 200) -> dict[str, float]:
    """Train, validate and test."""
    model = TwoConvs()
    runner = Runner(
        model,
        train=Loader(Discs(), micro_batch=8),
        val=Discs(),
        test=Discs(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        iterations=iterations,
        val_interval=50,
        evaluation=Evaluation([DiscIoU()]),
        hooks=[StopWhenGood()],
        engine=LocalEngine("cpu"),
        name="discs",
    )
    return runner.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(main(*map(int, sys.argv[1:])))
