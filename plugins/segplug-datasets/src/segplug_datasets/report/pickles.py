"""Results of MMSegmentation's tests in a ``.pkl`` file, read without running code from it.

0.x: a list with a label map for each image, or the counts of its classes; 1.x (``DumpResults``): a list of dicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segplug_datasets.metrics.counts import confusion
from segplug_datasets.metrics.per_image import PerImage
from segplug_datasets.report.truth import ByName, Truth

PICKLES = (".pkl", ".pickle")
COUNTS = 4
"""Correct, united, predicted and true pixels of each class, which 0.x keeps for each image."""


def measure_pickle(path: Path, truth: Truth) -> PerImage:
    """Return the results of each image in a file. Predictions are class ids, in the order of the truth or with names.

    Raises:
        DataError: When the file is damaged, holds something else, or does not fit the truth.
        UsageError: When no installed package reads such files.
    """
    from segkernel.checkpoint import reader_of

    reader = reader_of(".pkl")
    if reader is None:
        raise UsageError(f"{path}: reading it needs a package\n    pip install segplug-backbones")
    results: Any = reader.read(path)
    if not isinstance(results, list):
        raise DataError("is no list of results of a test", path)
    named = {Path(entry["img_path"]).stem: entry for entry in results if _is_named(entry)}
    entries = ByName(named)
    images = PerImage(truth.classes)
    for index, (name, labels) in enumerate(truth):
        entry = entries.get(name) if named else results[index] if index < len(results) else None
        if entry is None:
            raise DataError(f"has no prediction of the image {name}: {len(results)} results", path)
        if isinstance(entry, tuple):
            images.add_areas(name, _areas(entry, len(truth.classes), path))
        else:
            images.add(name, confusion(_ids(entry, labels, len(truth.classes), path), labels, len(truth.classes)))
    if not named and len(images) != len(results):
        raise DataError(f"holds {len(results)} results for {len(images)} images; they are matched by their order", path)
    return images


def _is_named(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("img_path"), str)


def _ids(entry: Any, labels: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """Return the label map in a result, with 255 for what is no class."""
    values = entry.get("pred_sem_seg", entry) if isinstance(entry, Mapping) else entry
    values = values.get("data") if isinstance(values, Mapping) else values
    shape = tuple(getattr(values, "shape", ()))
    if shape not in (labels.shape, (1, *labels.shape)):
        what = f"of shape {shape}" if shape else "that is no label map"
        raise DataError(f"a prediction {what} for labels of {labels.shape} (height, width)", path)
    ids = np.asarray(values).reshape(labels.shape)
    return np.where((ids >= 0) & (ids < classes), ids, IGNORE).astype(np.uint8)


def _areas(entry: tuple[Any, ...], classes: int, path: Path) -> np.ndarray:
    """Return correct, true and predicted pixels (3, classes)."""
    if len(entry) != COUNTS or any(tuple(getattr(part, "shape", ())) != (classes,) for part in entry):
        raise DataError(f"a result is no label map, and not the counts of {classes} classes", path)
    correct, _, predicted, true = (np.asarray(part) for part in entry)
    return np.stack([correct, true, predicted])
