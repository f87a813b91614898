"""Binary metrics over all thresholds: precision-recall curve, ROC curve, best thresholds.

    metric = BinaryMetric()
    metric.update(probabilities, truth)
    metric.compute()["bestF1_threshold"]

Probabilities are counted into a histogram, so memory does not grow with the pixels. Metrics at a threshold are exact;
only the areas under curves have an error, from pairs within one bin, and its bound is reported with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from segkernel.annotations import LabelId, NonNegativeInt, PositiveInt
from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segplug_datasets.metrics.calibration import probabilities
from segplug_datasets.metrics.counts import prefixed, to_array


class BinaryMetric:
    """Average precision, AUC, and best F1 and IoU in percent, over all pixels of all images.

    ``AP`` is average precision (the sum of precision times the gain in recall over falling thresholds), ``AUC`` the
    area under the ROC curve. ``bestF1`` and ``bestIoU`` are the best over thresholds, reached by calling a pixel
    positive when its probability is above ``bestF1_threshold`` and ``bestIoU_threshold``. The exact AP and AUC are
    within ``AP_error`` and ``AUC_error`` of those given. Without a positive pixel all are nan; AUC is also nan without
    a negative one.

    Args:
        positive: Id of the positive class.
        bins: Thresholds between 0 and 1.
        ignore_index: True label that is ignored.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.

    Raises:
        UsageError: When ``bins`` is below 2 or ``positive`` below 0.
    """

    needs_probabilities = True
    """Evaluation passes probabilities as ``seg_probabilities``."""

    def __init__(
        self,
        positive: NonNegativeInt = 1,
        bins: PositiveInt = 65536,
        ignore_index: LabelId = IGNORE,
        field: str = "seg",
    ) -> None:
        if bins < 2 or positive < 0:
            raise UsageError(f"bins {bins} and positive {positive}: need at least 2 and 0")
        self.positive, self.bins, self.ignore_index, self.field = positive, bins, ignore_index, field
        self._counts: Any = np.zeros((2, bins), np.int64)  # negative and positive pixels

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image.

        Args:
            prediction: A `Prediction` with probabilities, or probabilities (K, H, W), array or tensor; K of 1 is the
                probability of class 1.
            target: A `Targets`, or class ids (H, W).

        Raises:
            DataError: When there are no probabilities, none of the class, or they do not fit the annotations.
        """
        import torch

        predicted, truth = probabilities(prediction, target, self.field)
        if self.positive >= len(predicted):
            raise DataError(f"there are no probabilities of class {self.positive}, only of {len(predicted)} classes")
        counted = truth != self.ignore_index
        probability, true = predicted[self.positive][counted], truth[counted] == self.positive
        # A bin includes its upper bound, so that "above a threshold" is exactly "in a later bin".
        place = (probability * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1) + true * self.bins
        counts = torch.bincount(place, minlength=2 * self.bins).reshape(2, self.bins)
        self._counts = self._counts + (counts.numpy() if counts.device.type == "cpu" else to_array(counts))

    def merge(self, other: BinaryMetric) -> None:
        """Add the counts of ``other``.

        Raises:
            UsageError: When its number of bins differs.
        """
        if other.bins != self.bins:
            raise UsageError(f"cannot add {other.bins} bins to {self.bins}")
        self._counts = self._counts + other._counts

    def curves(self) -> dict[str, np.ndarray]:
        """Return ``threshold``, ``precision``, ``recall``, ``false_positive_rate``, ``F1`` and ``IoU``, each (bins,),
        for calling positive what is above the threshold, from the highest threshold to 0; nan where undefined."""
        false, true = np.cumsum(self._counts[:, ::-1], 1).astype(np.float64)
        negatives, positives = self._counts.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "threshold": np.arange(self.bins)[::-1] / self.bins,
                "precision": true / (true + false),
                "recall": true / positives,
                "false_positive_rate": false / negatives,
                "F1": 2 * true / (true + false + positives),
                "IoU": true / (false + positives),
            }

    def compute(self) -> dict[str, float]:
        """Return the metrics in percent, and the thresholds."""
        curves, (negatives, positives) = self.curves(), self._counts.sum(1)
        metrics: dict[str, float] = {}
        metrics["AP"], metrics["AP_error"] = self._average_precision(curves)
        metrics["AUC"], metrics["AUC_error"] = self._roc_area(curves)
        if not (positives and negatives):
            metrics["AUC"] = metrics["AUC_error"] = np.nan
        metrics = {name: 100 * float(value) if positives else np.nan for name, value in metrics.items()}
        for name in ("F1", "IoU"):
            best = int(np.argmax(curves[name])) if positives else 0
            metrics[f"best{name}"] = 100 * float(curves[name][best]) if positives else np.nan
            metrics[f"best{name}_threshold"] = float(curves["threshold"][best]) if positives else np.nan
        return prefixed(metrics, self.field)

    def _average_precision(self, curves: dict[str, np.ndarray]) -> tuple[float, float]:
        """Return the sum of precision times gain in recall, and a bound of its binning error.

        Within a bin, the precision is between the cases of all negatives first and all positives first.
        """
        gain = np.diff(curves["recall"], prepend=0)
        right, wrong = np.cumsum(self._counts[::-1, ::-1], 1).astype(np.float64)
        earlier_right, earlier_wrong = (np.concatenate([[0.0], total[:-1]]) for total in (right, wrong))
        with np.errstate(invalid="ignore", divide="ignore"):
            high = np.where(right + earlier_wrong > 0, right / (right + earlier_wrong), 0)
            low = (earlier_right + 1) / (earlier_right + 1 + wrong)
        area = float(np.sum(gain * np.nan_to_num(curves["precision"])))
        bounds = float(np.sum(gain * high)) - area, area - float(np.sum(gain * np.minimum(low, high)))
        return area, max(*bounds, 0.0)

    def _roc_area(self, curves: dict[str, np.ndarray]) -> tuple[float, float]:
        """Return the share of correctly ordered pairs, and half the share of pairs within one bin."""
        gain = np.diff(curves["false_positive_rate"], prepend=0)
        recall = curves["recall"]
        middle = (recall + np.concatenate([[0.0], recall[:-1]])) / 2
        return float(np.sum(gain * middle)), float(np.sum(gain * np.diff(recall, prepend=0)) / 2)
