"""Distances between predicted and true contours: Hausdorff distance, mean distance, surface Dice.

Huttenlocher, Klanderman and Rucklidge, Comparing Images Using the Hausdorff Distance, 1993 (and its 95th percentile).
Yeghiazaryan and Voiculescu, Family of boundary overlap metrics, 2018 (average symmetric surface distance).
Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy, 2018 (surface
Dice).

    metric = HausdorffMetric(spacing=0.5)      # half a millimetre per pixel
    metric.update(labels, truth)
    metric.compute()["HD95.liver"]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from segkernel.annotations import LabelId, NonNegative, Positive
from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segplug_datasets.metrics.classwise import ClassMetric, present


class HausdorffMetric(ClassMetric):
    """Distances of contours in the unit of ``spacing``: ``HD95`` and ``ASSD`` of each class, and means over classes.

    ``HD95.NAME`` is the larger of the two directed 95th percentiles of the distances from contour pixels of one region
    to the nearest of the other; ``ASSD.NAME`` the mean of both regions' distances together. A contour is the set
    of pixels of a region with one of four neighbours outside, the border of the image included. Values are means over
    images; an image with neither region is left out, and a class in no image is nan. Ignored pixels belong to no
    region. Computed on the CPU.

    Args:
        percentile: 95, or 100 for the Hausdorff distance itself (then called ``HD100``).
        spacing: Side of a pixel, in any unit of length.
        missing: Distance of an image in which only one of the regions exists, which is infinite: the image's
            ``diagonal``, or none (``skip``), which hides missed regions.
        ignore_index: True label that is ignored.
        classes: Class names; the runner takes them from the data set when None.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.

    Raises:
        UsageError: When an argument is out of range, or ``update`` is called before the classes are known.
    """

    scale: ClassVar[float] = 1

    def __init__(
        self,
        percentile: Annotated[float, Interval(gt=0, le=100)] = 95,
        spacing: Positive = 1.0,
        missing: Literal["diagonal", "skip"] = "diagonal",
        ignore_index: LabelId = IGNORE,
        classes: Sequence[str] | None = None,
        field: str = "seg",
    ) -> None:
        super().__init__(classes, ignore_index, field)
        if not 0 < percentile <= 100 or not spacing > 0:
            raise UsageError(
                f"percentile must be above 0 and at most 100, spacing above 0, not {percentile} and {spacing}"
            )
        if missing not in ("diagonal", "skip"):
            raise UsageError(f"missing must be 'diagonal' or 'skip', not {missing!r}")
        self.percentile, self.spacing, self.missing = percentile, spacing, missing
        self._sums: Any = 0  # (3, classes): Hausdorff distances, mean distances, images

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image: a `Prediction` and `Targets`, or class ids (H, W), arrays or tensors.

        Raises:
            DataError: When the shapes differ.
        """
        guess, truth = self.maps(prediction, target)
        sums = np.zeros((3, len(self.names())))
        for index in present(guess, truth, sums.shape[1]):
            pair = self._distances(guess == index + 1, truth == index + 1)
            if pair is not None:
                sums[:, index] = *pair, 1
        self._sums = self._sums + sums

    def merge(self, other: HausdorffMetric) -> None:
        """Add the counts of ``other``."""
        self._sums = self._sums + other._sums

    def columns(self) -> dict[str, np.ndarray]:
        far, near, images = np.broadcast_to(self._sums, (3, len(self.names()))).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return {f"HD{self.percentile:g}": far / images, "ASSD": near / images}

    def _distances(self, guess: np.ndarray, truth: np.ndarray) -> tuple[float, float] | None:
        """Return Hausdorff and mean distance of two regions, at least one of them not empty."""
        if not guess.any() or not truth.any():
            worst = float(np.hypot(*truth.shape)) * self.spacing
            return (worst, worst) if self.missing == "diagonal" else None
        guess, truth = (_crop(mask, guess | truth) for mask in (guess, truth))
        ours, theirs = contour(guess), contour(truth)
        there, back = distances_to(theirs)[ours], distances_to(ours)[theirs]
        far = max(float(np.percentile(part, self.percentile)) for part in (there, back))
        near = (float(there.sum(dtype=np.float64)) + float(back.sum(dtype=np.float64))) / (there.size + back.size)
        return far * self.spacing, near * self.spacing


class SurfaceDiceMetric(ClassMetric):
    """Share of the contours' length within a tolerance of the other contour, in percent, over all images.

    Contours run between pixels, straight or cutting corners, and each piece counts by its length, as published.
    ``SurfaceDice.NAME`` is one class, ``mSurfaceDice`` the mean; a class without any contour is nan, and one that is
    never predicted 0. Ignored pixels belong to no region. Computed on the CPU.

    Args:
        tolerance: Acceptable distance, in the unit of ``spacing``.
        spacing: Side of a pixel, in any unit of length.
        ignore_index: True label that is ignored.
        classes: Class names; the runner takes them from the data set when None.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.

    Raises:
        UsageError: When an argument is out of range, or ``update`` is called before the classes are known.
    """

    def __init__(
        self,
        tolerance: NonNegative = 1.0,
        spacing: Positive = 1.0,
        ignore_index: LabelId = IGNORE,
        classes: Sequence[str] | None = None,
        field: str = "seg",
    ) -> None:
        super().__init__(classes, ignore_index, field)
        if not (tolerance >= 0 and spacing > 0):
            raise UsageError(f"tolerance must be at least 0 and spacing above 0, not {tolerance} and {spacing}")
        self.tolerance, self.spacing = tolerance, spacing
        self._sums: Any = 0  # (2, classes): length within the tolerance, length

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image, as `HausdorffMetric.update`."""
        guess, truth = self.maps(prediction, target)
        sums = np.zeros((2, len(self.names())))
        for index in present(guess, truth, sums.shape[1]):
            masks = guess == index + 1, truth == index + 1
            pieces = [_pieces(_crop(mask, masks[0] | masks[1])) for mask in masks]
            for here, there in (pieces, pieces[::-1]):
                on = here > 0
                near = distances_to(there > 0)[on] * self.spacing <= self.tolerance
                sums[:, index] += here[on][near].sum(), here[on].sum()
        self._sums = self._sums + sums

    def merge(self, other: SurfaceDiceMetric) -> None:
        """Add the counts of ``other``."""
        self._sums = self._sums + other._sums

    def columns(self) -> dict[str, np.ndarray]:
        within, length = np.broadcast_to(self._sums, (2, len(self.names()))).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return {"SurfaceDice": within / length}


def contour(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a region (H, W) bool with one of four neighbours outside it, or outside the image."""
    cv2 = opencv()
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def distances_to(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance (H, W) to the nearest pixel of ``mask``, infinite when there is none.

    OpenCV's precise transform is exact, to the rounding of float32.
    """
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    cv2 = opencv()
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _crop(mask: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Crop ``mask`` to the box of ``around``, with a border of one empty pixel, which preserves distances."""
    rows, columns = (np.flatnonzero(around.any(axis)) for axis in (1, 0))
    return np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)


def _pieces(mask: np.ndarray) -> np.ndarray:
    """Return the length of contour in each square of four neighbouring pixels, 0 where there is none."""
    corners = mask[:-1, :-1] * 8 + mask[:-1, 1:] * 4 + mask[1:, :-1] * 2 + mask[1:, 1:] * 1
    return _LENGTHS[corners]


def _lengths() -> np.ndarray:
    """Return the contour length by the bit mask of inside corners (8, 4, 2, 1)."""
    slanted = math.sqrt(2) / 2  # cuts off one corner
    by_corners = {3: 1.0, 12: 1.0, 5: 1.0, 10: 1.0, 6: 2 * slanted, 9: 2 * slanted}
    return np.array([0.0 if code in (0, 15) else by_corners.get(code, slanted) for code in range(16)])


_LENGTHS = _lengths()
