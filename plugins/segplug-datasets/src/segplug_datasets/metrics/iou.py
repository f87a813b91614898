"""IoU, Dice, F-score and accuracy, from one confusion matrix.

metric = IoUMetric(classes=["road", "car"])
metric.update(labels, truth)
metric.compute()["mIoU"]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from segkernel.annotations import FileName, LabelId, NonNegativeInt, Positive, Probability
from segkernel.errors import DataError, UsageError, suggest
from segkernel.labels import IGNORE, Labels, Task
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.bootstrap import interval, resample
from segplug_datasets.metrics.counts import (
    align,
    areas,
    binary_confusion,
    confusion,
    labels_of,
    mean,
    name_of,
    per_class,
    percent,
    pixel_accuracy,
    prefixed,
    to_array,
)
from segplug_datasets.metrics.per_image import PerImage
from segplug_datasets.report.formats import write_classes, write_prediction

_COLUMNS = {
    "mIoU": ("IoU", "Acc"),
    "mDice": ("Dice", "Acc"),
    "mFscore": ("Fscore", "Precision", "Recall"),
}


class IoUMetric:
    """Percentages over all pixels of all images; a class that neither occurs nor is predicted is nan and left out.

    ``aAcc`` is pixel accuracy, ``mIoU`` and the like are means over classes, ``fwIoU`` weights classes by their
    frequency, ``IoU.NAME`` is one class. With ``bootstrap``, ``mIoU.low`` and ``mIoU.high`` (and
    ``IoU.NAME.low`` ...) are the bounds of an interval over images.

    For labels of task ``multilabel``, classes are evaluated independently; ``aAcc`` is the binary accuracy over all
    classes and pixels, and ``fwIoU`` is missing.

    Args:
        iou_metrics: ``mIoU`` (with mAcc, fwIoU), ``mDice`` (with mAcc), ``mFscore`` (with mPrecision, mRecall).
        ignore_index: True label that is ignored.
        nan_to_num: Value (0 to 1) that replaces nan of absent classes, which then enter the means.
        beta: Weight of recall against precision in the F-score.
        classes: Class names; the runner takes them from the data set when None.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.
        output_dir: Write each prediction there as a PNG, in the values of the data set's label files; multi-label maps
            as a binary PNG in a folder for each class.
        format_only: Only write; nothing is measured, and the images need no annotations.
        bootstrap: Number of bootstrap draws for confidence intervals; 0 gives none.
        confidence: Confidence level of the intervals, 0 to 1.
        seed: Seed of the draws.
        task: Task of ``field``; that of the data set when None.
        exclude: Names of classes that are predicted but not evaluated, such as a void class: their true pixels are
            ignored, and they enter no mean. Predicting one elsewhere is an error.

    Raises:
        UsageError: When an unknown metric or class is named, or ``update`` is called before the classes are known.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary", "multilabel")

    def __init__(
        self,
        iou_metrics: Sequence[Literal["mIoU", "mDice", "mFscore"]] = ("mIoU",),
        ignore_index: LabelId = IGNORE,
        nan_to_num: float | None = None,
        beta: Positive = 1,
        classes: Sequence[str] | None = None,
        field: str = "seg",
        output_dir: FileName | None = None,
        format_only: bool = False,
        bootstrap: NonNegativeInt = 0,
        confidence: Probability = 0.95,
        seed: NonNegativeInt = 0,
        task: Task | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        unknown = [name for name in iou_metrics if name not in _COLUMNS]
        if unknown or not iou_metrics:
            raise UsageError(f"iou_metrics must be among {', '.join(_COLUMNS)}, not {', '.join(unknown) or 'none'}")
        if format_only and output_dir is None:
            raise UsageError("format_only writes predictions: give output_dir")
        if bootstrap < 0 or not 0 < confidence < 1:
            raise UsageError(f"bootstrap {bootstrap}, confidence {confidence}: need 0 or more, and between 0 and 1")
        self.iou_metrics, self.ignore_index, self.nan_to_num = tuple(iou_metrics), ignore_index, nan_to_num
        self.beta, self.classes, self.field = beta, classes, field
        self.output_dir, self.format_only = output_dir, format_only
        self.bootstrap, self.confidence, self.seed = bootstrap, confidence, seed
        self.task, self.exclude = task, tuple(exclude)
        self.labels: Labels | None = None  # set by the runner
        self._confusion: Any = None  # result of `confusion` or `binary_confusion`; an array or a tensor
        self._images: PerImage | None = None

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image, or several of one size.

        Args:
            prediction: A `Prediction`, or class ids, array or tensor of any integer type.
            target: A `Targets`, or class ids of the same shape.

        Raises:
            DataError: When the shapes differ.
        """
        predicted = labels_of(prediction, self.field)
        if self.output_dir is not None:
            known = self.labels if self.field == "seg" and self.labels else Labels(tuple(self._names()))
            write = write_classes if self._several else write_prediction
            write(self.output_dir, name_of(prediction), to_array(predicted), LabelSpec.of(known))
        if self.format_only:
            return
        counts = self._counts(predicted, labels_of(target, self.field))
        self._confusion = counts if self._confusion is None else self._confusion + counts
        if self.bootstrap:
            self._images = self._images or PerImage(self._names())
            self._images.add(name_of(prediction), counts)

    def merge(self, other: IoUMetric) -> None:
        """Add the counts of ``other``."""
        if other._confusion is not None:
            theirs = other._confusion
            self._confusion = theirs if self._confusion is None else to_array(self._confusion) + to_array(theirs)
        if other._images is not None:
            merged = PerImage(self._names())
            for images in (self._images, other._images):
                if images is not None:
                    merged.merge(images)
            self._images = merged

    def compute(self) -> dict[str, float]:
        """Return the metrics in percent: the summary first, then one per class; none with ``format_only``."""
        if self.format_only:
            return {}
        summary, columns = self._metrics()
        table = {f"{key}.{name}": v for key, values in columns.items() for name, v in zip(self._names(), values)}
        every = {**summary, **table, **self._intervals()}
        return prefixed({key: 100 * value for key, value in every.items()}, self.field)

    def table(self) -> str:
        """Return a table of the metrics of every class, with the means below; ``-`` marks a class that is absent."""
        if self.format_only:
            return f"predictions written to {self.output_dir}"
        summary, columns = self._metrics()
        rows = [["class", *columns]]
        for index, name in enumerate(self._names()):
            rows.append([name, *(percent(values[index]) for values in columns.values())])
        rows.append(["mean", *(percent(summary[f"m{key}"]) for key in columns)])
        means = "  ".join(f"{key} {percent(value)}" for key, value in summary.items())
        return "\n".join([*align(rows, (1, -1)), means])

    @property
    def _several(self) -> bool:
        """Whether a pixel may have several classes."""
        known = self.labels.task if self.labels and self.field == "seg" else "multiclass"
        return (self.task or known) == "multilabel"

    def _counts(self, predicted: Any, true: Any) -> Any:
        if not self._several:
            counts = confusion(predicted, true, len(self._names()), self.ignore_index)
        else:
            counts = binary_confusion(predicted, true, self.ignore_index)
            if len(counts) != len(self._names()):
                raise DataError(f"maps of {len(counts)} classes, but {len(self._names())} are named")
        counts[self._excluded()] = 0  # rows are of true classes
        return counts

    def _excluded(self) -> list[int]:
        """Return the classes that are not evaluated."""
        names = list(self._names())
        if unknown := [name for name in self.exclude if name not in names]:
            raise UsageError(f"exclude: no class is called {unknown[0]!r}; {suggest(unknown[0], names)}")
        return [names.index(name) for name in self.exclude]

    def _names(self) -> Sequence[str]:
        if not self.classes:
            raise UsageError("IoUMetric must know the classes: give 'classes'")
        return self.classes

    def _metrics(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return the summary and, per kind, the values of all classes, as fractions."""
        count = len(self._names())
        empty = (count, 2, 2) if self._several else (count + 2, count + 1)
        counts = np.zeros(empty) if self._confusion is None else to_array(self._confusion)
        pixels = areas(counts)
        columns = self._columns(pixels)
        decided = counts.sum() if self._several else 0  # true negatives count as correct
        right = np.trace(counts, axis1=1, axis2=2).sum() / decided if decided else math.nan
        summary = {"aAcc": float(right if self._several else pixel_accuracy(pixels))}
        summary |= {f"m{key}": float(mean(values)) for key, values in columns.items()}
        if "IoU" in columns and not self._several:
            true = pixels[1]
            summary["fwIoU"] = np.nansum(true * columns["IoU"]) / true.sum() if true.sum() else math.nan
        return summary, columns

    def _columns(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the chosen metrics, (..., classes), from pixels (..., 3, classes)."""
        every = per_class(pixels, self.beta)
        columns = {key: every[key] for metric in self.iou_metrics for key in _COLUMNS[metric]}
        if self.nan_to_num is not None:
            columns = {key: np.nan_to_num(values, nan=self.nan_to_num) for key, values in columns.items()}
        for values in columns.values():
            values[..., self._excluded()] = np.nan
        return columns

    def _intervals(self) -> dict[str, float]:
        """Return the bounds of every metric over bootstrap draws."""
        if self._images is None:
            return {}
        drawn = resample(self._images.areas, self.bootstrap, self.seed)
        bounds: dict[str, float] = {}
        values = {} if self._several else {"aAcc": pixel_accuracy(drawn)}
        for key, column in self._columns(drawn).items():
            values[f"m{key}"] = mean(column)
            values |= {f"{key}.{name}": column[:, index] for index, name in enumerate(self._names())}
        for key, draws in values.items():
            bounds[f"{key}.low"], bounds[f"{key}.high"] = (float(b) for b in interval(draws, self.confidence))
        return bounds
