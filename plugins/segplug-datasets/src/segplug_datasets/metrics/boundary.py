"""Boundary metrics: boundary IoU and boundary F1.

Cheng, Girshick, Dollar, Berg and Kirillov, Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, 2021.
Csurka, Larlus and Perronnin, What is a good evaluation measure for semantic segmentation?, 2013.

    metric = BoundaryIoU(classes=["road", "car"])
    metric.update(labels, truth)
    metric.compute()["mBoundaryIoU"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segkernel.annotations import LabelId, NonNegative, Positive
from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segplug_datasets.metrics.classwise import ClassMetric, present
from segplug_datasets.metrics.counts import per_class
from segplug_datasets.metrics.surface import distances_to


class BoundaryIoU(ClassMetric):
    """IoU of the pixels of each class within a distance of its contour, in percent, over all pixels of all images.

    The distance is a share of the image's diagonal, in steps to any of eight neighbours; the border of the image is a
    contour, as published, that of ignored pixels is not. A class that neither occurs nor is predicted is nan and left
    out of ``mBoundaryIoU``. Computed on the CPU.

    Args:
        dilation_ratio: Distance over the diagonal; at least one pixel.
        ignore_index: True label that is ignored.
        classes: Class names; the runner takes them from the data set when None.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.

    Raises:
        UsageError: When the ratio is not between 0 and 1, or ``update`` is called before the classes are known.
    """

    def __init__(
        self,
        dilation_ratio: Positive = 0.02,
        ignore_index: LabelId = IGNORE,
        classes: Sequence[str] | None = None,
        field: str = "seg",
    ) -> None:
        super().__init__(classes, ignore_index, field)
        if not 0 < dilation_ratio < 1:
            raise UsageError(f"dilation_ratio must be between 0 and 1, not {dilation_ratio}")
        self.dilation_ratio = dilation_ratio
        self._areas: Any = 0  # (3, classes) shared, true and predicted pixels near contours

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image: a `Prediction` and `Targets`, or class ids (H, W), arrays or tensors.

        Raises:
            DataError: When the shapes differ.
        """
        guess, truth = self.maps(prediction, target)
        distance = max(1, round(self.dilation_ratio * float(np.hypot(*truth.shape))))
        near_guess, near_truth = near_contours(guess, distance), near_contours(truth, distance)
        shared = near_guess & near_truth & (guess == truth)
        parts = (truth[shared], truth[near_truth], guess[near_guess])
        count = len(self.names())
        self._areas = self._areas + np.stack([np.bincount(p, minlength=count + 2)[1 : count + 1] for p in parts])

    def merge(self, other: BoundaryIoU) -> None:
        """Add the counts of ``other``."""
        self._areas = self._areas + other._areas

    def columns(self) -> dict[str, np.ndarray]:
        return {"BoundaryIoU": per_class(np.broadcast_to(self._areas, (3, len(self.names()))))["IoU"]}


def near_contours(ids: np.ndarray, distance: int) -> np.ndarray:
    """Return where a label map (H, W) uint8, 0 where ignored, has another label within ``distance`` pixels.

    One minimum and one maximum over the neighbourhood serve all classes: they are equal only away from contours.
    Ignored pixels are the largest value for the minimum and the smallest for the maximum, so they make no contour.
    """
    cv2 = opencv()
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    lowest = cv2.erode(np.where(ids == 0, np.uint8(255), ids), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    highest = cv2.dilate(ids, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return (ids > 0) & ((lowest != ids) | (highest != ids))


class BoundaryF1(ClassMetric):
    """F-score of contours within a tolerance, in percent: a mean over the images with the class, true or predicted.

    Precision is the share of predicted contour pixels with a true one within the tolerance (Euclidean distance),
    recall the reverse. The contour of a region are its pixels with one of four neighbours outside; the border of the
    image and of ignored pixels are not contours.

    Args:
        tolerance: Distance over the image's diagonal, 0.0075 as published.
        ignore_index: True label that is ignored.
        classes: Class names; the runner takes them from the data set when None.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.

    Raises:
        UsageError: When the tolerance is not between 0 and 1, or ``update`` is called before the classes are known.
    """

    def __init__(
        self,
        tolerance: NonNegative = 0.0075,
        ignore_index: LabelId = IGNORE,
        classes: Sequence[str] | None = None,
        field: str = "seg",
    ) -> None:
        super().__init__(classes, ignore_index, field)
        if not 0 < tolerance < 1:
            raise UsageError(f"tolerance must be between 0 and 1, not {tolerance}")
        self.tolerance = tolerance
        self._sums: Any = 0  # (2, classes) scores and images

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image, as `BoundaryIoU.update`."""
        guess, truth = self.maps(prediction, target)
        reach = self.tolerance * float(np.hypot(*truth.shape))
        sums = np.zeros((2, len(self.names())))
        for index in present(guess, truth, sums.shape[1]):
            part = _around((guess == index + 1) | (truth == index + 1))
            score = _contour_f1(_contour(guess[part], index + 1), _contour(truth[part], index + 1), reach)
            if score is not None:
                sums[:, index] = score, 1
        self._sums = self._sums + sums

    def merge(self, other: BoundaryF1) -> None:
        """Add the counts of ``other``."""
        self._sums = self._sums + other._sums

    def columns(self) -> dict[str, np.ndarray]:
        scores, images = np.broadcast_to(self._sums, (2, len(self.names()))).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return {"BoundaryF1": scores / images}


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the bounding box of a non-empty mask, with a margin of one pixel inside the image."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)


def _contour(ids: np.ndarray, value: int) -> np.ndarray:
    """Return the pixels of a class with one of four neighbours that is of another, known class."""
    inside = (ids == value) | (ids == 0)
    cross = opencv().getStructuringElement(opencv().MORPH_CROSS, (3, 3))
    eroded = opencv().erode(inside.astype(np.uint8), cross, borderType=opencv().BORDER_CONSTANT, borderValue=1)
    return (ids == value) & (eroded == 0)


def _contour_f1(guess: np.ndarray, truth: np.ndarray, reach: float) -> float | None:
    if not guess.any() and not truth.any():
        return None
    if not guess.any() or not truth.any():
        return 0.0
    precision = float((distances_to(truth)[guess] <= reach).mean())
    recall = float((distances_to(guess)[truth] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
