"""Confusion matrices, and the metrics computed from them.

OpenCV's joint histogram counts 8-bit maps several times faster than `numpy.bincount`; tensors on another device are
counted there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.labels import IGNORE

_EXACT = 2**24
"""Pixels at a time: the histogram is float32, which is exact up to here."""


def labels_of(value: Any, field: str = "seg") -> Any:
    """Return the label map of a `Prediction` or `Targets`; other values are returned as they are."""
    return value[field] if hasattr(value, "fields") else value


def name_of(value: Any) -> str:
    """Return the image's name, empty when unknown."""
    return str(getattr(value, "meta", {}).get("name", ""))


def to_array(value: Any) -> np.ndarray:
    """Return an array or a tensor of any device as an array."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)


def check_shapes(predicted: Any, true: Any) -> None:
    """Check that two label maps have the same shape.

    Raises:
        DataError: When they differ.
    """
    if predicted.shape != true.shape:
        there, here = tuple(predicted.shape), tuple(true.shape)
        raise DataError(f"a prediction of shape {there} for annotations of shape {here}")


def confusion(predicted: Any, true: Any, count: int, ignore_index: int = IGNORE) -> Any:
    """Count the pairs (true, predicted) of class ids.

    Args:
        predicted: Class ids of any shape, array or tensor of any integer type.
        true: Class ids of the same shape.
        count: Number of classes.
        ignore_index: True label that is ignored.

    Returns:
        (count + 2, count + 1) counts, rows are true: row and column ``count`` are ids above the classes, the last row
        is ignored pixels. A tensor on the prediction's device if that is not the CPU, else an array.

    Raises:
        DataError: When the shapes differ.
    """
    check_shapes(predicted, true)
    if getattr(getattr(predicted, "device", None), "type", "cpu") not in ("cpu", "mps"):
        return _on_device(predicted, true, count, ignore_index)
    guesses, truths = to_array(predicted), to_array(true)
    if guesses.dtype == truths.dtype == np.uint8 and count <= 256:
        return _fold(_joint_histogram(truths, guesses), count, ignore_index)
    guesses, truths = guesses.astype(np.int64, copy=False), truths.astype(np.int64, copy=False)
    rows = np.where(truths == ignore_index, count + 1, np.minimum(truths, count))
    index = rows * (count + 1) + np.minimum(guesses, count)
    return np.bincount(index.ravel(), minlength=(count + 2) * (count + 1)).reshape(count + 2, count + 1)


def _joint_histogram(truths: np.ndarray, guesses: np.ndarray) -> np.ndarray:
    """Return the (256, 256) int64 counts of pairs of 8-bit values."""
    calc, total = opencv().calcHist, np.zeros((256, 256), np.int64)
    truths, guesses = (np.ascontiguousarray(values).reshape(1, -1) for values in (truths, guesses))
    for start in range(0, truths.size, _EXACT):
        part = [truths[:, start : start + _EXACT], guesses[:, start : start + _EXACT]]
        total += calc(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return total


def _fold(pairs: np.ndarray, count: int, ignore_index: int) -> np.ndarray:
    """Sum ids above the classes, and separate ignored pixels."""
    ignored = np.zeros(256, np.int64)
    if 0 <= ignore_index < 256:
        ignored, pairs[ignore_index] = pairs[ignore_index].copy(), 0
    rows = np.concatenate([pairs[:count], pairs[count:].sum(0, keepdims=True), ignored[None]])
    return np.concatenate([rows[:, :count], rows[:, count:].sum(1, keepdims=True)], 1)


def _on_device(predicted: Any, true: Any, count: int, ignore_index: int) -> Any:
    import torch

    truths = torch.as_tensor(true).to(predicted.device, torch.int32)
    rows = truths.clamp(max=count).masked_fill(truths == ignore_index, count + 1)
    index = rows * (count + 1) + predicted.to(torch.int32).clamp(max=count)
    return torch.bincount(index.flatten(), minlength=(count + 2) * (count + 1)).reshape(count + 2, count + 1)


def binary_confusion(predicted: Any, true: Any, ignore_index: int = IGNORE) -> np.ndarray:
    """Return the binary confusion matrix of each class: (classes, 2, 2) int64, rows are true.

    Args:
        predicted: (classes, H, W), array or tensor.
        true: (classes, H, W); pixels of ``ignore_index`` are ignored for that class.

    Raises:
        DataError: When the shapes differ, or are not (classes, H, W).
    """
    check_shapes(predicted, true)
    if len(predicted.shape) != 3:
        raise DataError(f"multilabel masks must be (classes, H, W), not {tuple(predicted.shape)}")
    guesses, truths = to_array(predicted) == 1, to_array(true)
    counted, yes = truths != ignore_index, truths == 1
    pairs = [[counted & (yes == row) & (guesses == column) for column in (False, True)] for row in (False, True)]
    return np.moveaxis(np.array([[part.sum((1, 2)) for part in row] for row in pairs]), 2, 0)


def areas(counts: np.ndarray) -> np.ndarray:
    """Return (3, classes): correct, true and predicted pixels of each class, from `confusion` or `binary_confusion`."""
    if counts.ndim == 3:
        return np.stack([counts[:, 1, 1], counts[:, 1].sum(1), counts[:, :, 1].sum(1)])
    count = counts.shape[1] - 1
    counted = counts[: count + 1]
    return np.stack([np.diag(counted)[:count], counted[:count].sum(1), counted[:, :count].sum(0)])


def per_class(areas: np.ndarray, beta: float = 1) -> dict[str, np.ndarray]:
    """Return the metrics of each class, 0 to 1, nan where undefined.

    Args:
        areas: (..., 3, classes) correct, true and predicted pixels.
        beta: Weight of recall against precision in the F-score.
    """
    hits, true, predicted = (areas[..., row, :].astype(np.float64) for row in range(3))
    weight = beta**2
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = hits / predicted, hits / true
        return {
            "IoU": hits / (true + predicted - hits),
            "Acc": recall,
            "Dice": 2 * hits / (true + predicted),
            "Precision": precision,
            "Recall": recall,
            "Fscore": (1 + weight) * precision * recall / (weight * precision + recall),
        }


def pixel_accuracy(areas: np.ndarray) -> np.ndarray:
    """Return the accuracy of (..., 3, classes) counts; nan where all pixels are ignored."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return areas[..., 0, :].sum(-1) / areas[..., 1, :].sum(-1)


def mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean over the values that are not nan; nan where all are."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def percent(value: float) -> str:
    """Return a share as a percentage with two decimals, ``-`` for nan."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def align(rows: list[list[str]], rules: tuple[int, ...] = (1,)) -> list[str]:
    """Return table rows as lines of text, the first column to the left; a rule goes before the rows in ``rules``."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in rows]
    for place in sorted((rule % len(rows) for rule in rules), reverse=True):
        lines.insert(place, "-" * len(lines[0]))
    return lines


def prefixed(metrics: Mapping[str, float], field: str) -> dict[str, float]:
    """Return metrics as floats, named after ``field`` unless it is ``seg``."""
    prefix = "" if field == "seg" else f"{field}."
    return {f"{prefix}{name}": float(value) for name, value in metrics.items()}
