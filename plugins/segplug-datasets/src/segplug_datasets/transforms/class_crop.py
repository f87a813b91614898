"""A random crop that aims at classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from segkernel.annotations import NonNegativeInt, PositiveInt, Probability
from segkernel.errors import UsageError
from segkernel.labels import IGNORE
from segkernel.sample import Sample
from segplug_datasets import geometry
from segplug_datasets.class_index import GRID, cell_edges, count_in_cells, holds
from segplug_datasets.transforms.checks import need_class_ids


class ClassAwareCrop:
    """Crop a random window, with a given probability around a pixel of a randomly drawn class of the image.

    Classes present in the image are equally likely, so a small object is cropped as often as the sky. One pass over a
    cell of the label map, no retries; an image smaller than the window keeps its size. If the sample has a class index
    of its cells (``IndexedDataset``), it is used.

    Args:
        crop_size: (height, width) in pixels, or one number for both.
        prob: Probability of aiming at a class; otherwise windows are uniform.
        classes: Ids of the classes to aim at; all when None.

    Raises:
        UsageError: When a size or the probability is out of range, or ``classes`` is empty or invalid.
        DataError: When a sample has no labels.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"crop_size": (64, 80)}, {"crop_size": 32, "prob": 1.0, "classes": (3, 7)})

    def __init__(
        self,
        crop_size: PositiveInt | tuple[PositiveInt, PositiveInt],
        prob: Probability = 0.5,
        classes: Sequence[NonNegativeInt] | None = None,
    ) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        if min(self.crop_size) < 1 or not 0 <= prob <= 1:
            raise UsageError(f"crop_size must be positive and prob from 0 to 1, not {crop_size} and {prob}")
        if classes is not None and not (len(classes) and all(0 <= class_id < IGNORE for class_id in classes)):
            raise UsageError(f"classes must be one or more ids from 0 to {IGNORE - 1}, not {list(classes)}")
        self.prob, self.classes = prob, None if classes is None else sorted(set(classes))

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        cells = sample.meta.pop("class_cells", None)
        need_class_ids(sample, "ClassAwareCrop")
        aimed = rng.random() < self.prob
        point = self._pixel(sample, None if sample.moved else cells, rng) if aimed else None
        size = [min(edge, limit) for edge, limit in zip(sample.size, self.crop_size)]
        top, left = (
            _start(length, window, None if point is None else point[axis], rng)
            for axis, (length, window) in enumerate(zip(sample.size, size))
        )
        return sample.apply(geometry.Crop(top, left, *size))

    def _pixel(self, sample: Sample, cells: np.ndarray | None, rng: np.random.Generator) -> tuple[int, int] | None:
        """Return (row, column) of a pixel of a class, or None when the sample has none of the classes."""
        labels = sample["seg"].array
        if cells is None:
            cells = np.packbits(count_in_cells(labels, IGNORE) > 0, axis=-1)
        anywhere = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(cells, (0, 1))))
        wanted = anywhere if self.classes is None else np.intersect1d(anywhere, self.classes)
        if not len(wanted):
            return None
        class_id = int(rng.choice(wanted))
        row, column = divmod(int(rng.choice(np.flatnonzero(holds(cells, class_id)))), GRID)
        rows, columns = (cell_edges(length) for length in labels.shape)
        top, left = int(rows[row]), int(columns[column])
        cell = labels[top : rows[row + 1], left : columns[column + 1]]
        found = np.flatnonzero(cell == class_id)
        if not len(found):  # a resize has lost the few pixels there were
            return top, left
        y, x = divmod(int(rng.choice(found)), cell.shape[1])
        return top + y, left + x


def _start(length: int, window: int, point: int | None, rng: np.random.Generator) -> int:
    """Return the start of a window inside ``length`` that holds ``point``, if possible."""
    low, high = 0, length - window
    if point is not None:
        low, high = max(low, point - window + 1), min(high, point)
    return int(rng.integers(low, high + 1))
