"""Per-image counts, for intervals, comparisons and slices.

images = PerImage(["road", "car"])
images.add("frankfurt_000294", confusion(predicted, true, 2))
images.save("per_image.npz")
"""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.files import replacing
from segplug_datasets.metrics.counts import areas, mean, per_class, pixel_accuracy, to_array


class PerImage:
    """Correct, true and predicted pixels of every class in every image, 12 bytes per class and image.

    Args:
        classes: Class names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._entries: list[tuple[str, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, counts: Any) -> None:
        """Add one image's `confusion`; ``name`` may be empty."""
        self._entries.append((name, areas(to_array(counts)).astype(np.uint32)))

    def add_areas(self, name: str, areas: np.ndarray) -> None:
        """Add one image's correct, true and predicted pixels (3, classes)."""
        self._entries.append((name, areas.astype(np.uint32)))

    def merge(self, other: PerImage) -> None:
        """Add the images of ``other``."""
        self._entries = self._entries + other._entries

    @property
    def names(self) -> list[str]:
        """Names of the images, sorted: the order does not depend on the number of processes."""
        return [name for name, _ in self._sorted()]

    @property
    def areas(self) -> np.ndarray:
        """(images, 3, classes) int64: correct, true and predicted pixels, in the order of `names`."""
        shape = (len(self), 3, len(self.classes))
        return np.array([counts for _, counts in self._sorted()], np.int64).reshape(shape)

    def scores(self) -> np.ndarray:
        """Return the mean IoU (images) over the true and predicted classes of an image; nan without any."""
        return mean(per_class(self.areas)["IoU"])

    def _sorted(self) -> list[tuple[str, np.ndarray]]:
        return sorted(self._entries, key=lambda entry: (entry[0], entry[1].tobytes()))

    def save(self, path: str | Path) -> None:
        """Write an .npz file, which `load` reads."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, classes=np.array(self.classes), names=np.array(self.names, str), areas=self.areas)

    @classmethod
    def load(cls, path: str | Path) -> PerImage:
        """Read what `save` wrote.

        Raises:
            DataError: When it is not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                classes, names, counts = (file[key] for key in ("classes", "names", "areas"))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"holds no per-image results: {error}", path) from error
        images = cls([str(name) for name in classes])
        images._entries = [(str(name), entry.astype(np.uint32)) for name, entry in zip(names, counts)]
        return images

    def write_table(self, path: str | Path) -> None:
        """Write name, aAcc, mIoU and the IoU of every class, in percent, as ``.csv``, or ``.jsonl``.

        What is absent from an image is an empty cell, or null.
        """
        keys = ["name", "aAcc", "mIoU", *(f"IoU.{name}" for name in self.classes)]
        metrics = np.concatenate(
            [pixel_accuracy(self.areas)[:, None], self.scores()[:, None], per_class(self.areas)["IoU"]], 1
        )
        rows = [[None if math.isnan(v) else round(100 * v, 4) for v in row] for row in metrics.tolist()]
        with replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            if Path(path).suffix == ".jsonl":
                for name, row in zip(self.names, rows):
                    file.write(json.dumps(dict(zip(keys, [name, *row]))) + "\n")
            else:
                csv.writer(file).writerows([keys, *([name, *row] for name, row in zip(self.names, rows))])
