"""Overlap of predicted and true regions, from one confusion matrix.

metric = IoUMetric(classes=["road", "car"])
metric.update(labels, truth)
metric.compute()["mIoU"]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import IGNORE

_COLUMNS = {
    "mIoU": ("IoU", "Acc"),
    "mDice": ("Dice", "Acc"),
    "mFscore": ("Fscore", "Precision", "Recall"),
}


class IoUMetric:
    """Percentages over all pixels of all images; a class that neither occurs nor is predicted is nan and left out.

    ``aAcc`` is the share of right pixels, ``mIoU`` and its kin are means over classes, ``fwIoU`` weighs classes by
    how often they occur, ``IoU.NAME`` is one class.

    Args:
        iou_metrics: ``mIoU`` (with mAcc, fwIoU), ``mDice`` (with mAcc), ``mFscore`` (with mPrecision, mRecall).
        ignore_index: True label that does not count.
        nan_to_num: Value (0 to 1) of classes without a figure, which then count in the means.
        beta: Weight of recall against precision in the F-score.
        classes: Names; taken from the data set by the runner when None.
        field: Which output and annotation are compared; another than ``seg`` goes before the figures' names.

    Raises:
        UsageError: When an unknown metric is asked for, or ``update`` is called before the classes are known.
    """

    def __init__(
        self,
        iou_metrics: Sequence[Literal["mIoU", "mDice", "mFscore"]] = ("mIoU",),
        ignore_index: int = IGNORE,
        nan_to_num: float | None = None,
        beta: float = 1,
        classes: Sequence[str] | None = None,
        field: str = "seg",
    ) -> None:
        unknown = [name for name in iou_metrics if name not in _COLUMNS]
        if unknown or not iou_metrics:
            raise UsageError(f"iou_metrics are {', '.join(_COLUMNS)}, not {', '.join(unknown) or 'none'}")
        self.iou_metrics, self.ignore_index, self.nan_to_num = tuple(iou_metrics), ignore_index, nan_to_num
        self.beta, self.classes, self.field = beta, classes, field
        self._confusion: Any = None  # (classes + 2, classes + 1) counts, rows are true; an array or a tensor

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image, or several of one size.

        Args:
            prediction: A `Prediction`, or class ids, array or tensor of any integer type.
            target: A `Targets`, or class ids of the same shape.

        Raises:
            DataError: When the shapes differ.
        """
        predicted, true = self._labels(prediction), self._labels(target)
        if predicted.shape != true.shape:
            raise DataError(
                f"a prediction of shape {tuple(predicted.shape)} for annotations of shape {tuple(true.shape)}"
            )
        counts = self._count(predicted, true)
        self._confusion = counts if self._confusion is None else self._confusion + counts

    def merge(self, other: IoUMetric) -> None:
        """Add what ``other`` counted."""
        if other._confusion is not None:
            theirs = other._confusion
            self._confusion = theirs if self._confusion is None else _to_array(self._confusion) + _to_array(theirs)

    def compute(self) -> dict[str, float]:
        """Return the figures in percent: the summary first, then one per class."""
        summary, columns = self._figures()
        table = {f"{key}.{name}": v for key, values in columns.items() for name, v in zip(self._names(), values)}
        prefix = "" if self.field == "seg" else f"{self.field}."
        return {f"{prefix}{key}": float(100 * value) for key, value in {**summary, **table}.items()}

    def table(self) -> str:
        """Return the figures of every class, aligned, with the means below; ``-`` marks a class that is absent."""
        summary, columns = self._figures()
        rows = [["class", *columns]]
        for index, name in enumerate(self._names()):
            rows.append([name, *(_percent(values[index]) for values in columns.values())])
        rows.append(["mean", *(_percent(summary[f"m{key}"]) for key in columns)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows
        ]
        rule = "-" * len(lines[0])
        means = "  ".join(f"{key} {_percent(value)}" for key, value in summary.items())
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], means])

    def _labels(self, value: Any) -> Any:
        return value[self.field] if hasattr(value, "fields") else value

    def _names(self) -> Sequence[str]:
        if not self.classes:
            raise UsageError("IoUMetric must know the classes: give 'classes'")
        return self.classes

    def _count(self, predicted: Any, true: Any) -> Any:
        """Return the confusion matrix; row and column n hold ids above the classes, row n + 1 what is ignored."""
        count = len(self._names())
        shape = (count + 2, count + 1)
        if isinstance(predicted, np.ndarray) and isinstance(true, np.ndarray):
            rows = np.where(true == self.ignore_index, count + 1, np.minimum(true, count, dtype=np.int64))
            index = rows * shape[1] + np.minimum(predicted, count)
            return np.bincount(index.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        import torch

        predicted = torch.as_tensor(predicted)
        true = torch.as_tensor(true).to(predicted.device).long()
        rows = true.clamp(max=count).masked_fill(true == self.ignore_index, count + 1)
        index = rows * shape[1] + predicted.long().clamp(max=count)
        return torch.bincount(index.flatten(), minlength=shape[0] * shape[1]).reshape(shape)

    def _figures(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return the summary and, per kind, the values of all classes, as fractions."""
        count = len(self._names())
        counts = np.zeros((count + 2, count + 1)) if self._confusion is None else _to_array(self._confusion)
        counted = counts[: count + 1].astype(np.float64)
        hits, true, predicted = np.diag(counted)[:count], counted[:count].sum(1), counted[:, :count].sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            every = self._per_class(hits, true, predicted)
            every["aAcc"] = hits.sum() / true.sum()
        columns = {key: every[key] for metric in self.iou_metrics for key in _COLUMNS[metric]}
        if self.nan_to_num is not None:
            columns = {key: np.nan_to_num(values, nan=self.nan_to_num) for key, values in columns.items()}
        summary = {"aAcc": every["aAcc"], **{f"m{key}": _mean(values) for key, values in columns.items()}}
        if "IoU" in columns:
            summary["fwIoU"] = np.nansum(true * every["IoU"]) / true.sum() if true.sum() else math.nan
        return summary, columns

    def _per_class(self, hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        precision, recall, weight = hits / predicted, hits / true, self.beta**2
        return {
            "IoU": hits / (true + predicted - hits),
            "Acc": recall,
            "Dice": 2 * hits / (true + predicted),
            "Precision": precision,
            "Recall": recall,
            "Fscore": (1 + weight) * precision * recall / (weight * precision + recall),
        }


def _to_array(counts: Any) -> np.ndarray:
    return counts if isinstance(counts, np.ndarray) else counts.cpu().numpy()


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
