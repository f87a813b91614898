"""Regular holes in the image (GridMask); `RandomCutOut` cuts single ones."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import UsageError
from segkernel.labels import IGNORE
from segkernel.sample import Sample
from segplug_datasets.transforms.checks import ordered, probability


class GridMask:
    """Cover a grid of squares (Chen et al., 2020).

    Args:
        prob: Probability of covering anything.
        unit: Lowest and highest distance between two squares' left edges, in pixels.
        ratio: Share of that which stays visible between two squares, from 0 to 1.
        fill_in: RGB value of the squares.
        seg_fill_in: Label of the squares in the field ``seg``; labels are unchanged when None, as in the paper.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0, "unit": (16, 40), "seg_fill_in": IGNORE}

    def __init__(
        self,
        prob: Probability = 0.5,
        unit: tuple[PositiveInt, PositiveInt] = (96, 224),
        ratio: Probability = 0.6,
        fill_in: tuple[float, ...] = (0, 0, 0),
        seg_fill_in: int | None = None,
    ) -> None:
        low, high = ordered("unit", unit, 2)
        if not 0 < ratio < 1:
            raise UsageError(f"ratio must be above 0 and below 1, not {ratio}")
        self.prob, self.unit, self.ratio = probability(prob), (int(low), int(high)), ratio
        self.fill_in, self.seg_fill_in = fill_in, seg_fill_in

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() >= self.prob:
            return sample
        unit = int(rng.integers(self.unit[0], self.unit[1] + 1))
        rows, columns = ((np.arange(length) + rng.integers(unit)) % unit >= unit * self.ratio for length in sample.size)
        holes = rows[:, None] & columns
        sample.image = np.where(holes[..., None], np.asarray(self.fill_in, sample.image.dtype), sample.image)
        if self.seg_fill_in is not None and "seg" in sample:
            labels = sample["seg"].array
            holes = holes if labels.ndim == 2 else holes[..., None]
            sample["seg"] = replace(
                sample["seg"], array=np.where(holes, np.asarray(self.seg_fill_in, labels.dtype), labels)
            )
        return sample
