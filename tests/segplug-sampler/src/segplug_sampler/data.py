"""A data set, a transform and a metric, without torch."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from segkernel.labels import IGNORE
from segkernel.sample import LabelMap, Sample


class Stripes:
    """Bright and dark stripes, at a position that depends on the index.

    Args:
        length: Number of images.
        size: Height and width.
    """

    classes = ("dark", "bright")
    palette = ((60, 60, 60), (220, 220, 220))

    def __init__(self, length: int = 4, size: tuple[int, int] = (24, 32)) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        labels = np.zeros(self.size, np.uint8)
        labels[:, index % 4 :: 8] = labels[:, index % 4 + 1 :: 8] = 1
        return Sample({"seg": LabelMap(labels)}, {"name": f"stripes{index}"}, np.array(self.palette, np.uint8)[labels])


class Negative:
    """Swap bright and dark, in the labels too.

    Args:
        prob: Probability, 0 to 1.
    """

    needs: ClassVar[int] = 0
    conformance_exceptions: ClassVar = {"labels": "swaps the labels by design"}

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() < self.prob:
            sample.image = 255 - sample.image
            labels = sample["seg"].array
            sample["seg"] = LabelMap(np.where(labels == IGNORE, IGNORE, 1 - labels.astype(int) & 1).astype(np.uint8))
        return sample


class PixelAccuracy:
    """Pixel accuracy in percent."""

    def __init__(self) -> None:
        self.right = self.counted = 0

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image."""
        counted = target["seg"] != IGNORE
        self.right += int((prediction.labels == target["seg"])[counted].sum())
        self.counted += int(counted.sum())

    def merge(self, other: PixelAccuracy) -> None:
        """Add the counts of another metric."""
        self.right += other.right
        self.counted += other.counted

    def compute(self) -> dict[str, float]:
        """Return the accuracy."""
        return {"aAcc": 100.0 * self.right / max(self.counted, 1)}
