"""Scores of true and false positives and negatives, with a choice of what they are averaged over.

metric = ScoresMetric(scores=["f1_score", "specificity"], reductions=["macro"], classes=["road", "car"])
metric.update(labels, truth)
metric.compute()["macro-f1_score"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from segkernel.annotations import LabelId, NonNegative, Positive
from segkernel.errors import UsageError, suggest
from segkernel.labels import IGNORE, Labels, Task
from segplug_datasets.metrics.counts import areas, binary_confusion, confusion, labels_of, prefixed, to_array

Score = Literal[
    "fbeta_score", "f1_score", "iou_score", "accuracy", "precision", "recall", "sensitivity", "specificity",
    "balanced_accuracy", "positive_predictive_value", "negative_predictive_value", "false_negative_rate",
    "false_positive_rate", "false_discovery_rate", "false_omission_rate", "positive_likelihood_ratio",
    "negative_likelihood_ratio",
]  # fmt: skip
Reduction = Literal["micro", "macro", "weighted", "micro-imagewise", "macro-imagewise", "weighted-imagewise"]
RATIOS = ("positive_likelihood_ratio", "negative_likelihood_ratio")
"""Scores that are no percentages."""


class ScoresMetric:
    """Scores by name and reduction, ``macro-f1_score``, in percent but for the likelihood ratios.

    ``micro`` counts all pixels of all images and classes together, ``macro`` is the mean over the classes,
    ``weighted`` their weighted mean; with ``-imagewise`` it is that of each image, and then the mean over the images.

    Args:
        scores: The scores. ``precision`` is the positive predictive value, ``recall`` the sensitivity.
        reductions: What they are averaged over.
        class_weight: Weight of each class for ``weighted``, of any sum.
        beta: Weight of recall against precision in ``fbeta_score``.
        zero_division: Value, 0 to 1, of a score without pixels to divide by, except for ``micro``: nan.
        include: Names of the classes that count; all for None. Of a binary map it is the second.
        classes: Class names; the runner takes them from the data set when None.
        ignore_index: True label that is ignored.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.
        task: Task of ``field``; that of the data set when None.

    Raises:
        UsageError: When ``class_weight`` is missing or of another number, or a class is unknown.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "binary", "multilabel")

    def __init__(
        self,
        scores: Sequence[Score] = ("f1_score", "iou_score"),
        reductions: Sequence[Reduction] = ("macro",),
        class_weight: Sequence[NonNegative] | None = None,
        beta: Positive = 1.0,
        zero_division: float = 1.0,
        include: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        ignore_index: LabelId = IGNORE,
        field: str = "seg",
        task: Task | None = None,
    ) -> None:
        if class_weight is None and any("weighted" in name for name in reductions):
            raise UsageError("ScoresMetric: weighted reductions need class_weight")
        self.scores, self.reductions, self.class_weight = tuple(scores), tuple(reductions), class_weight
        self.beta, self.zero_division, self.include = beta, zero_division, include
        self.classes, self.ignore_index, self.field, self.task = classes, ignore_index, field, task
        self.labels: Labels | None = None  # set by the runner
        self._images: list[np.ndarray] = []

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image.

        Args:
            prediction: A `Prediction`, or class ids (H, W), or 0 and 1 for each class (K, H, W).
            target: A `Targets`, or the same.
        """
        predicted, true = labels_of(prediction, self.field), labels_of(target, self.field)
        if self._task == "multilabel":
            counts = binary_confusion(predicted, true, self.ignore_index)
            total = counts.sum((1, 2))
        else:
            counts = to_array(confusion(predicted, true, len(self._names()), self.ignore_index))
            total = np.count_nonzero(to_array(true) != self.ignore_index)
        right, labelled, called = areas(counts)
        false, missed = called - right, labelled - right
        self._images.append(np.stack([right, false, missed, total - right - false - missed]))

    def merge(self, other: ScoresMetric) -> None:
        """Add the images of ``other``."""
        self._images += other._images

    def counts(self) -> np.ndarray:
        """Return true positives, false positives, false negatives and true negatives, (4, images, classes)."""
        names = self._names()
        images = np.stack(self._images, 1) if self._images else np.zeros((4, 0, len(names)), np.int64)
        return images[:, :, [names.index(name) for name in self._included()]]

    def per_image(self, score: Score) -> np.ndarray:
        """Return a score of each image and class, (images, classes)."""
        return self._score(score, self.counts())

    def compute(self) -> dict[str, float]:
        """Return ``REDUCTION-SCORE`` for all of them."""
        counts, metrics = self.counts(), {}
        for reduction in self.reductions:
            for name in self.scores:
                value = self._reduced(name, reduction, counts) if counts.shape[1] else np.nan
                metrics[f"{reduction}-{name}"] = float(value) * (1 if name in RATIOS else 100)
        return prefixed(metrics, self.field)

    def _reduced(self, name: Score, reduction: Reduction, counts: np.ndarray) -> float:
        kind, imagewise = reduction.removesuffix("-imagewise"), reduction.endswith("-imagewise")
        counts = counts if imagewise else counts.sum(1, keepdims=True)
        if kind == "micro":
            values = self._score(name, counts.sum(2), handle=imagewise)
            return values.mean()
        values = self._score(name, counts).mean(0)
        if kind == "macro":
            return values.mean()
        weights = np.asarray(self.class_weight, float)
        if len(weights) != len(values):
            raise UsageError(f"ScoresMetric: {len(weights)} numbers class_weight for {len(values)} classes")
        return float(values @ weights / weights.sum())

    def _score(self, name: Score, counts: np.ndarray, handle: bool = True) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            values = SCORES[name](*counts.astype(np.float64), self.beta)
        return np.where(np.isnan(values), self.zero_division, values) if handle else values

    @property
    def _task(self) -> Task:
        return self.task or (self.labels.task if self.labels and self.field == "seg" else "multiclass")

    def _names(self) -> list[str]:
        if not self.classes:
            raise UsageError("ScoresMetric must know the classes: give 'classes'")
        return list(self.classes)

    def _included(self) -> Sequence[str]:
        names = self._names()
        if self.include is None:
            return names[1:] if self._task == "binary" else names
        if unknown := [name for name in self.include if name not in names]:
            raise UsageError(f"include: no class is called {unknown[0]!r}; {suggest(unknown[0], names)}")
        return self.include


def _fbeta(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray, beta: float) -> np.ndarray:
    return (1 + beta**2) * tp / ((1 + beta**2) * tp + beta**2 * fn + fp)


SCORES: dict[str, Callable[..., np.ndarray]] = {
    "fbeta_score": _fbeta,
    "f1_score": lambda tp, fp, fn, tn, beta: _fbeta(tp, fp, fn, tn, 1),
    "iou_score": lambda tp, fp, fn, tn, beta: tp / (tp + fp + fn),
    "accuracy": lambda tp, fp, fn, tn, beta: (tp + tn) / (tp + fp + fn + tn),
    "sensitivity": lambda tp, fp, fn, tn, beta: tp / (tp + fn),
    "specificity": lambda tp, fp, fn, tn, beta: tn / (tn + fp),
    "balanced_accuracy": lambda tp, fp, fn, tn, beta: (tp / (tp + fn) + tn / (tn + fp)) / 2,
    "positive_predictive_value": lambda tp, fp, fn, tn, beta: tp / (tp + fp),
    "negative_predictive_value": lambda tp, fp, fn, tn, beta: tn / (tn + fn),
    "false_negative_rate": lambda tp, fp, fn, tn, beta: fn / (tp + fn),
    "false_positive_rate": lambda tp, fp, fn, tn, beta: fp / (tn + fp),
    "false_discovery_rate": lambda tp, fp, fn, tn, beta: fp / (tp + fp),
    "false_omission_rate": lambda tp, fp, fn, tn, beta: fn / (tn + fn),
    "positive_likelihood_ratio": lambda tp, fp, fn, tn, beta: (tp / (tp + fn)) / (fp / (tn + fp)),
    "negative_likelihood_ratio": lambda tp, fp, fn, tn, beta: (fn / (tp + fn)) / (tn / (tn + fp)),
}
SCORES["precision"], SCORES["recall"] = SCORES["positive_predictive_value"], SCORES["sensitivity"]
