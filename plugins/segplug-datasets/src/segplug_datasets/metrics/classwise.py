"""Base of metrics per class: class names, 8-bit label maps, means and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from segkernel.errors import UsageError
from segplug_datasets.metrics.counts import align, check_shapes, labels_of, mean, prefixed, to_array

_MOST = 254
"""Maximum number of classes in 8 bits, with two further values."""


class ClassMetric:
    """Metrics per class: a subclass counts in ``update`` and returns its metrics in `columns`.

    Args:
        classes: Class names; the runner takes them from the data set when None.
        ignore_index: True label that is ignored.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.
    """

    scale: ClassVar[float] = 100
    """Factor of all metrics: shares become percentages."""

    def __init__(self, classes: Sequence[str] | None, ignore_index: int, field: str) -> None:
        self.classes, self.ignore_index, self.field = classes, ignore_index, field

    def columns(self) -> dict[str, np.ndarray]:
        """Return each metric (classes), nan for a class that is absent."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """Return the means over classes, ``mKIND``, then ``KIND.NAME`` of each class; nan for absent ones."""
        columns = self.columns()
        metrics = {f"m{kind}": float(mean(values)) for kind, values in columns.items()}
        for kind, values in columns.items():
            metrics |= {f"{kind}.{name}": float(value) for name, value in zip(self.names(), values)}
        return prefixed({name: self.scale * value for name, value in metrics.items()}, self.field)

    def table(self) -> str:
        """Return a table of the metrics of every class; ``-`` marks a class that is absent."""
        columns = self.columns()
        rows = [["class", *columns]]
        rows += [[name, *map(self._cell, values)] for name, values in zip(self.names(), zip(*columns.values()))]
        rows.append(["mean", *(self._cell(float(mean(values))) for values in columns.values())])
        return "\n".join(align(rows, (1, -1)))

    def names(self) -> Sequence[str]:
        """Return the names of the classes.

        Raises:
            UsageError: When they are unknown, or too many.
        """
        if not self.classes:
            raise UsageError(f"{type(self).__name__} must know the classes: give 'classes'")
        if len(self.classes) > _MOST:
            raise UsageError(f"{type(self).__name__} takes up to {_MOST} classes, not {len(self.classes)}")
        return self.classes

    def maps(self, prediction: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return prediction and truth (H, W) as ids + 1, uint8; both 0 where the truth is ignored.

        Raises:
            DataError: When their shapes differ.
        """
        count = len(self.names())
        guess, truth = (labels_of(value, self.field) for value in (prediction, target))
        check_shapes(guess, truth)
        guess, truth = to_array(guess), to_array(truth)
        ignored = truth == self.ignore_index
        both = [np.minimum(ids, count).astype(np.uint8) + np.uint8(1) for ids in (guess, truth)]
        for ids in both:
            ids[ignored] = 0
        return both[0], both[1]

    def _cell(self, value: float) -> str:
        return "-" if math.isnan(value) else f"{self.scale * value:.2f}"


def present(guess: np.ndarray, truth: np.ndarray, count: int) -> list[int]:
    """Return the ids of the classes that occur in one of two maps of ids + 1."""
    seen = np.bincount(guess.ravel(), minlength=256) + np.bincount(truth.ravel(), minlength=256)
    return [int(index) for index in np.flatnonzero(seen[1 : count + 1])]
