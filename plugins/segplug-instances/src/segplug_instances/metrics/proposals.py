"""`ProposalRecall`: how many objects a model's boxes cover, whatever their class, as Detectron measures proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import PositiveInt
from segkernel.errors import DataError
from segplug_instances.metrics.coco import example

THRESHOLDS = np.arange(0.5, 0.95 + 1e-5, 0.05)
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}


class ProposalRecall:
    """Average recall in per cent over IoUs from 0.5 to 0.95: ``AR@100``, ``AR_small@100`` and so on.

    Each box covers one object at most; the pair that overlaps most comes first. Crowds are left out. A number without
    ground truth is nan.

    Args:
        limits: Numbers of boxes of an image, the first in the order of the prediction.
        field: The output to compare; prefixes the metric names unless it is ``seg``.
    """

    conformance_inputs: ClassVar = {"make": example}

    def __init__(self, limits: Sequence[PositiveInt] = (10, 100, 1000), field: str = "seg") -> None:
        self.limits, self.field = tuple(limits), field
        self._covered: dict[tuple[str, int], list[float]] = {(area, limit): [] for limit in limits for area in AREAS}

    def update(self, prediction: Any, target: Any) -> None:
        """Add the objects of an image.

        Args:
            prediction: A `Prediction`, whose field ``field`` has ``boxes`` (n, 4).
            target: `Targets` with ``boxes`` and, optionally, ``crowd`` and ``area``.

        Raises:
            DataError: When the image has no annotations of objects.
        """
        if "boxes" not in target:
            raise DataError("ProposalRecall needs the field 'boxes' of objects", prediction.meta.get("path"))
        boxes, truths = (_array(part["boxes"]).astype(np.float64) for part in (prediction[self.field], target))
        crowd = _array(target["crowd"]) if "crowd" in target else np.zeros(len(truths), bool)
        sides = truths[:, 2:] - truths[:, :2]
        areas = _array(target["area"]) if "area" in target else sides.prod(1)
        for (area, limit), covered in self._covered.items():
            low, high = AREAS[area]
            chosen = truths[~crowd.astype(bool) & (areas >= low) & (areas <= high)]
            covered.extend(coverage(boxes[:limit], chosen).tolist())

    def merge(self, other: ProposalRecall) -> None:
        """Add the objects of ``other``."""
        for key, covered in other._covered.items():
            self._covered[key].extend(covered)

    def compute(self) -> dict[str, float]:
        """Return the numbers in per cent."""
        prefix = "" if self.field == "seg" else f"{self.field}."
        return {f"{prefix}AR{area}@{limit}": 100 * _mean(covered) for (area, limit), covered in self._covered.items()}


def coverage(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Return the IoU (m,) of each object's box with the one that covers it, 0 without one.

    Args:
        boxes: (n, 4).
        truths: (m, 4).
    """
    found, overlaps = np.zeros(len(truths)), _iou(boxes, truths)
    for _ in range(min(overlaps.shape)):
        box, truth = np.unravel_index(overlaps.T.argmax(), overlaps.T.shape)[::-1]
        found[truth] = overlaps[box, truth]
        overlaps[box], overlaps[:, truth] = -1, -1
    return found


def recalls(covered: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the share of objects that are covered by at least each of `THRESHOLDS`."""
    return (np.asarray(covered)[:, None] >= THRESHOLDS).mean(0)


def _mean(covered: Sequence[float]) -> float:
    return float(recalls(covered).mean()) if len(covered) else math.nan


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    common = (high - low).clip(0).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (a, b)]
    return common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-12)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
