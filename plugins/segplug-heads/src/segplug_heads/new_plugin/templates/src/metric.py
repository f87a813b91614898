"""A metric: named numbers from predictions and labels, mergeable over processes. It imports no torch."""

from __future__ import annotations

from typing import Any

from segkernel.labels import IGNORE


class MyModelMetric:
    """Share of the labelled pixels that have the right class, in percent."""

    def __init__(self) -> None:
        self.correct = self.counted = 0

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image: ``prediction.labels`` and ``target["seg"]`` are tensors (H, W)."""
        known = target["seg"] != IGNORE
        self.correct += int((prediction.labels == target["seg"])[known].sum())
        self.counted += int(known.sum())

    def merge(self, other: MyModelMetric) -> None:
        """Add the counts of another process."""
        self.correct += other.correct
        self.counted += other.counted

    def compute(self) -> dict[str, float]:
        """Return the figures."""
        return {"pixel_accuracy": 100 * self.correct / max(self.counted, 1)}
