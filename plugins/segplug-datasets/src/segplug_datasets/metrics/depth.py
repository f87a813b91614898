"""Depth metrics: errors and accuracies of estimated depths.

Eigen, Puhrsch and Fergus, Depth Map Prediction from a Single Image using a Multi-Scale Deep Network, 2014.

    metric = DepthMetric(max_depth_eval=10)
    metric.update(depths, truth)
    metric.compute()["rmse"]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Gt

from segkernel.annotations import NonNegative
from segkernel.errors import DataError, UsageError

DepthMetricName = Literal["d1", "d2", "d3", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog"]

DEPTH_METRICS: tuple[DepthMetricName, ...] = (
    "d1",
    "d2",
    "d3",
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "silog",
)
SMALLEST = 1e-6
"""Replaces estimates of 0 or less, which have no logarithm."""

CROPS: dict[str, tuple[float, float, float, float]] = {
    "nyu_crop": (45, 471, 41, 601),
    "eigen_crop": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    "garg_crop": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
"""First and last row and column (not included), in pixels, or as shares of the sides when below 1."""


class DepthMetric:
    """Metrics over each image's measured pixels, averaged over the images that have any.

    ``d1``, ``d2``, ``d3`` are shares of pixels wrong by a factor below 1.25, its square and its cube; ``abs_rel`` and
    ``sq_rel`` errors and squared errors over the depth, ``rmse`` the root of the mean squared error, ``rmse_log`` that
    of logarithms, ``log10`` the mean error of decimal logarithms, ``silog`` the scale-invariant error of logarithms.

    Args:
        depth_metrics: The metrics to compute; all when None.
        min_depth_eval: Depths up to this are ignored, in metres.
        max_depth_eval: Depths from this on are ignored, in metres.
        crop_type: Evaluate a part of the image only. ``nyu_crop``: rows 45 to 470 and columns 41 to 600, as usual for
            NYU
            Depth V2; ``eigen_crop`` and ``garg_crop``: the shares of KITTI's images that the laser reaches, of Eigen et
            al. (2014) and of Garg et al. (2016).
        field: Name of the output (the main one if none has this name) and of the annotation that are compared, in
            the same unit.

    Raises:
        UsageError: When a metric is unknown.
    """

    conformance: ClassVar = ({"field": "seg"}, {"field": "seg", "max_depth_eval": 3.0, "depth_metrics": ["rmse"]})

    def __init__(
        self,
        depth_metrics: Sequence[DepthMetricName] | None = None,
        min_depth_eval: NonNegative = 0.0,
        max_depth_eval: Annotated[float, Gt(0)] = float("inf"),
        crop_type: Literal["nyu_crop", "eigen_crop", "garg_crop"] | None = None,
        field: str = "depth",
    ) -> None:
        unknown = [name for name in depth_metrics or () if name not in DEPTH_METRICS]
        if unknown or (depth_metrics is not None and not depth_metrics):
            raise UsageError(
                f"depth_metrics must be among {', '.join(DEPTH_METRICS)}, not {', '.join(unknown) or 'none'}"
            )
        if crop_type not in (None, *CROPS):
            raise UsageError(f"crop_type must be {', '.join(CROPS)} or None, not {crop_type!r}")
        self.depth_metrics = tuple(depth_metrics or DEPTH_METRICS)
        self.min_depth_eval, self.max_depth_eval, self.crop_type = min_depth_eval, max_depth_eval, crop_type
        self.field = field
        self._sums, self._images = np.zeros(len(DEPTH_METRICS)), 0

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image.

        Args:
            prediction: A `Prediction`, or depths (H, W), also with axes of length 1, array or tensor.
            target: A `Targets`, or depths of the same shape.

        Raises:
            DataError: When the shapes differ.
        """
        estimate, truth = self._depths(prediction), self._depths(target)
        if estimate.shape != truth.shape:
            raise DataError(f"an estimate of shape {estimate.shape} for depths of shape {truth.shape}")
        counted = (truth > self.min_depth_eval) & (truth < self.max_depth_eval) & (truth > 0)
        if self.crop_type is not None:
            inside = np.zeros_like(counted)
            inside[_window(self.crop_type, counted.shape)] = True
            counted &= inside
        if counted.any():
            self._sums = self._sums + _metrics(np.maximum(estimate[counted], SMALLEST), truth[counted])
            self._images += 1

    def merge(self, other: DepthMetric) -> None:
        """Add the counts of ``other``."""
        self._sums, self._images = self._sums + other._sums, self._images + other._images

    def compute(self) -> dict[str, float]:
        """Return the metrics; nan when no pixel was measured."""
        means = dict(
            zip(DEPTH_METRICS, self._sums / self._images if self._images else np.full(len(DEPTH_METRICS), math.nan))
        )
        return {name: float(means[name]) for name in self.depth_metrics}

    def _depths(self, value: Any) -> np.ndarray:
        if hasattr(value, "fields"):  # a depth model's only output is its main one
            value = value[self.field] if self.field in value else value["seg"]
        depths = value
        depths = depths.detach().cpu().double().numpy() if hasattr(depths, "detach") else np.asarray(depths, np.float64)
        return (
            depths.reshape(depths.shape[-2:])
            if depths.ndim > 2 and depths.size == math.prod(depths.shape[-2:])
            else depths
        )


def _window(crop_type: str, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of a crop."""
    sides = (shape[0], shape[0], shape[1], shape[1])
    top, bottom, left, right = (
        int(bound * side) if bound < 1 else int(bound) for bound, side in zip(CROPS[crop_type], sides)
    )
    return slice(top, bottom), slice(left, right)


def _metrics(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return all metrics of one image's pixels, in the order of `DEPTH_METRICS`."""
    factor = np.maximum(estimate / truth, truth / estimate)
    gap, log_gap = estimate - truth, np.log(estimate) - np.log(truth)
    square = np.mean(log_gap**2)
    return np.array(
        [
            *(np.mean(factor < 1.25**power) for power in (1, 2, 3)),
            np.mean(np.abs(gap) / truth),
            np.mean(gap**2 / truth),
            np.sqrt(np.mean(gap**2)),
            np.sqrt(square),
            np.mean(np.abs(log_gap)) / math.log(10),
            np.sqrt(square - 0.5 * np.mean(log_gap) ** 2),
        ]
    )
