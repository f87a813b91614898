"""Record of an evaluation, image by image, for the report; mergeable across processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from segkernel.image import opencv
from segplug_datasets.metrics.counts import areas, confusion, mean, per_class, to_array
from segplug_datasets.metrics.per_image import PerImage

_SIZES = {0.1: "below 0.1 megapixels", 0.5: "0.1 to 0.5 megapixels", 2: "0.5 to 2 megapixels", 8: "2 to 8 megapixels"}
"""Size classes, by their upper bound in megapixels."""


@dataclass(frozen=True)
class Kept:
    """A prediction kept for the report.

    Args:
        score: Mean IoU of the image, 0 to 1.
        name: The image's name.
        index: Index of the sample in the data set.
        file: The label map, as a PNG.
    """

    score: float
    name: str
    index: int
    file: bytes

    def labels(self) -> np.ndarray:
        """Return the predicted class ids (H, W)."""
        cv2 = opencv()
        return cv2.imdecode(np.frombuffer(self.file, np.uint8), cv2.IMREAD_UNCHANGED)


class Record:
    """Counts and metadata of every image, and the worst predictions.

    Args:
        classes: Class names.
        keep: Number of worst predictions to keep.
        field: The output and annotation to compare.
    """

    def __init__(self, classes: Sequence[str], keep: int, field: str = "seg") -> None:
        self.keep, self.field = keep, field
        self.images = PerImage(classes)
        self.confusion = np.zeros((len(classes) + 2, len(classes) + 1), np.int64)
        self.worst: list[Kept] = []
        self.facts: dict[str, dict[str, str]] = {}

    def add(self, prediction: Any, target: Any) -> None:
        """Count one image: a `Prediction` and its `Targets`."""
        labels = prediction[self.field]
        counts = to_array(confusion(labels, target[self.field], len(self.images.classes)))
        name = str(prediction.meta["name"])
        self.confusion += counts
        self.images.add(name, counts)
        self.facts[name] = describe(prediction.meta, tuple(labels.shape[-2:]))
        score = float(mean(per_class(areas(counts))["IoU"]))
        if self.keep and not math.isnan(score) and (len(self.worst) < self.keep or score < self.worst[-1].score):
            _, file = opencv().imencode(
                ".png", to_array(labels).astype(np.uint16 if len(self.images.classes) > 256 else np.uint8)
            )
            self._keep([Kept(score, name, int(prediction.meta.get("index", 0)), file.tobytes())])

    def merge(self, other: Record) -> None:
        """Add the records of another process."""
        self.images.merge(other.images)
        self.confusion = self.confusion + other.confusion
        self.facts = {**self.facts, **other.facts}
        self._keep(other.worst)

    def _keep(self, more: list[Kept]) -> None:
        self.worst = sorted([*self.worst, *more], key=lambda kept: (kept.score, kept.name))[: self.keep]


def describe(meta: dict[str, Any], size: tuple[int, ...]) -> dict[str, str]:
    """Return the built-in slices of an image: its ``folder`` and its ``size``."""
    folder = str(PurePath(str(meta["name"])).parent)
    if folder == "." and meta.get("path"):
        folder = PurePath(str(meta["path"])).parent.name or "."
    pixels = size[0] * size[1] / 1e6
    size_class = next((text for bound, text in _SIZES.items() if pixels < bound), "8 megapixels and more")
    return {"folder": folder, "size": size_class}
