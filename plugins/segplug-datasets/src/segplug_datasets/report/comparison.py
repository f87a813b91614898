"""Comparison of two models on the same images, per class and with significance."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segplug_datasets.metrics.bootstrap import interval, p_value, resample
from segplug_datasets.metrics.counts import align, mean, per_class, percent, pixel_accuracy
from segplug_datasets.metrics.per_image import PerImage


@dataclass(frozen=True)
class Difference:
    """A metric of both models, 0 to 1, nan when absent.

    Args:
        name: Name of the metric, or of the class whose IoU it is.
        first: Value of the first model.
        second: Value of the second model.
        low: Lower bound of the interval of second - first.
        high: Upper bound.
        p: Two-sided p-value of no difference, for this metric alone: not corrected for multiple comparisons.
    """

    name: str
    first: float
    second: float
    low: float
    high: float
    p: float

    def plain(self) -> dict[str, float | None]:
        """Return the values in percent (p as it is) for JSON, None for nan."""
        shares = {key: 100 * getattr(self, key) for key in ("first", "second", "low", "high")}
        shares |= {"difference": 100 * (self.second - self.first), "p": self.p}
        return {key: None if math.isnan(value) else value for key, value in shares.items()}


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`.

    Args:
        images: Number of images compared.
        metrics: mIoU, aAcc and mAcc.
        classes: IoU of each class.
        changes: (name, mean IoU of the first, of the second) of each image, from the largest loss to the largest
            gain; images without an IoU are left out.
        confidence: Confidence level of the intervals, 0 to 1.
    """

    images: int
    metrics: list[Difference]
    classes: list[Difference]
    changes: list[tuple[str, float, float]]
    confidence: float

    def table(self, first: str, second: str, most: int = 5) -> str:
        """Return the comparison as text, with ``most`` images at each end; a star marks p below 1 - confidence."""
        level = f"{100 * self.confidence:g} % interval"
        rows = [["class", first, second, "difference", level, "p", ""]]
        rows += [self._row(entry) for entry in [*self.classes, *self.metrics]]
        lines = align(rows, (1, 1 + len(self.classes)))
        losses = [change for change in self.changes if change[2] < change[1]][:most]
        gains = [change for change in self.changes[::-1] if change[2] > change[1]][:most]
        for title, changes in (("greatest losses", losses), ("greatest gains", gains)):
            if changes:
                cells = [[name, percent(a), percent(b), _signed(b - a)] for name, a, b in changes]
                lines += ["", *align([[title, first, second, "difference"], *cells])]
        return "\n".join(lines)

    def plain(self, most: int = 5) -> dict[str, Any]:
        """Return the comparison as plain values, in percent, with None for absent ones."""
        changes: list[dict[str, Any]] = [
            {"name": n, "first": 100 * a, "second": 100 * b, "difference": 100 * (b - a)} for n, a, b in self.changes
        ]
        return {
            "images": self.images,
            "confidence": self.confidence,
            "metrics": {entry.name: entry.plain() for entry in self.metrics},
            "classes": {entry.name: entry.plain() for entry in self.classes},
            "losses": [change for change in changes if change["difference"] < 0][:most],
            "gains": [change for change in changes[::-1] if change["difference"] > 0][:most],
        }

    def _row(self, entry: Difference) -> list[str]:
        bounds = "-" if math.isnan(entry.low) else f"{_signed(entry.low)} to {_signed(entry.high)}"
        p, mark = ("-" if math.isnan(entry.p) else f"{entry.p:.3f}"), ("*" if entry.p < 1 - self.confidence else "")
        change = _signed(entry.second - entry.first)
        return [entry.name, percent(entry.first), percent(entry.second), change, bounds, p, mark]


def compare(
    first: PerImage, second: PerImage, repeats: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare two results on the same images, second minus first, by a paired bootstrap over images.

    Each draw uses the same images for both, which cancels the difficulty of images (paired bootstrap).

    Args:
        first: Counts of the first model.
        second: Counts of the second model.
        repeats: Number of bootstrap draws.
        confidence: Confidence level of the intervals, 0 to 1.
        seed: Seed of the draws.

    Raises:
        DataError: When images, or their labels, or the classes differ; the message names them.
        UsageError: When an argument is out of range.
    """
    if repeats < 1 or not 0 < confidence < 1:
        raise UsageError(f"{repeats} draws, confidence {confidence}: need 1 or more, and between 0 and 1")
    check_same(first, second)
    areas = np.stack([first.areas, second.areas], 1)  # (images, 2, 3, classes)
    totals, drawn = _metrics(areas.sum(0)), _metrics(resample(areas, repeats, seed))
    entries = []
    for name, values in totals.items():
        differences = drawn[name][:, 1] - drawn[name][:, 0]
        low, high = interval(differences, confidence)
        entries.append((name, values, low, high, p_value(differences)))
    metrics = [Difference(name, *map(float, (*values, low, high, p))) for name, values, low, high, p in entries[:-1]]
    _, values, low, high, p = entries[-1]
    classes = [
        Difference(name, *map(float, (*values[:, place], low[place], high[place], p[place])))
        for place, name in enumerate(first.classes)
    ]
    pairs = zip(first.names, first.scores().tolist(), second.scores().tolist())
    changes = [pair for pair in pairs if not (math.isnan(pair[1]) or math.isnan(pair[2]))]
    changes.sort(key=lambda change: (change[2] - change[1], change[0]))
    return Comparison(len(first), metrics, classes, changes, confidence)


def check_same(first: PerImage, second: PerImage) -> None:
    """Check that two results have the same images, labels and classes.

    Raises:
        DataError: When they differ; the message names the difference.
    """
    if first.classes != second.classes:
        raise DataError(f"the classes differ: {_some(first.classes)} and {_some(second.classes)}")
    ours, theirs = first.names, second.names
    if not ours:
        raise DataError("there are no images to compare")
    if ours != theirs:
        parts = [("only in the first", ours, theirs), ("only in the second", theirs, ours)]
        missing = [(text, sorted(set(here) - set(there))) for text, here, there in parts]
        told = "; ".join(f"{len(names)} {text}: {_some(names)}" for text, names in missing if names)
        raise DataError(f"the images differ: {told or 'some names occur several times'}")
    twice = [name for name, other in itertools.pairwise(ours) if name == other]
    if twice:
        raise DataError(f"several images are called {twice[0]!r}: predictions cannot be matched")
    other = np.flatnonzero((first.areas[:, 1] != second.areas[:, 1]).any(1))
    if len(other):
        names = _some([ours[place] for place in other])
        raise DataError(f"{len(other)} images were measured against other labels, or at another size: {names}")


def _metrics(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Return metrics (...) of pixels (..., 3, classes), last the IoU (..., classes)."""
    every = per_class(areas)
    iou, accuracy = every["IoU"], every["Acc"]
    return {"mIoU": mean(iou), "mAcc": mean(accuracy), "aAcc": pixel_accuracy(areas), "IoU": iou}


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.2f}"


def _some(names: Any) -> str:
    shown = list(names)
    return ", ".join(map(str, shown[:5])) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
