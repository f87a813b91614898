"""Calibration: expected calibration error.

Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017.
Nixon et al., Measuring Calibration in Deep Learning, 2019 (the error of each class).

    metric = CalibrationMetric(bins=15)
    metric.compute()["ECE"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segkernel.annotations import LabelId, PositiveInt
from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segplug_datasets.metrics.counts import align, mean, percent, prefixed, to_array


class CalibrationMetric:
    """Calibration errors in percent, over all pixels of all images.

    ``ECE`` is the mean gap between confidence, the probability of the predicted class, and accuracy, over bins of equal
    width weighted by their pixels; ``MCE`` the largest gap. ``ECE.NAME`` compares the probability of one class, in
    every pixel, with how often the pixel is of that class, and ``mECE`` is the mean over classes (the static
    calibration error). ``accuracy`` and ``confidence`` are means, whose difference shows over- or
    under-confidence. All are nan when every pixel is ignored. Probabilities stay on their device; a few numbers per bin
    and class are kept.

    Args:
        bins: Bins of equal width between 0 and 1.
        ignore_index: True label that is ignored.
        classes: Class names; the runner takes them from the data set when None.
        field: The output and annotation to compare; prefixes the metric names unless it is ``seg``.

    Raises:
        UsageError: When ``bins`` is below 1, or ``update`` is called before the classes are known.
    """

    needs_probabilities = True
    """Evaluation passes probabilities as ``seg_probabilities``."""

    def __init__(
        self,
        bins: PositiveInt = 15,
        ignore_index: LabelId = IGNORE,
        classes: Sequence[str] | None = None,
        field: str = "seg",
    ) -> None:
        if bins < 1:
            raise UsageError(f"bins must be 1 or more, not {bins}")
        self.bins, self.ignore_index, self.classes, self.field = bins, ignore_index, classes, field
        self._top: Any = 0  # (3, bins): pixels, sum of probabilities, correct pixels
        self._each: Any = 0  # (3, classes, bins): the same per class

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image.

        Args:
            prediction: A `Prediction` with probabilities, or probabilities (K, H, W), array or tensor; K of 1 is the
                probability of the second of two classes.
            target: A `Targets`, or class ids (H, W).

        Raises:
            DataError: When there are no probabilities, or they do not fit the annotations or the classes.
        """
        import torch

        probs, truth = probabilities(prediction, target, self.field)
        if len(probs) != len(self._names()):
            raise DataError(f"probabilities of {len(probs)} classes, but there are {len(self._names())}")
        counted = truth != self.ignore_index
        probs, truth = probs[:, counted], truth[counted].long()
        confidence, guess = probs.max(0)
        self._top = self._top + _binned(confidence[None], (guess == truth)[None], self.bins)[:, 0]
        ids = torch.arange(len(probs), device=truth.device)[:, None]
        self._each = self._each + _binned(probs, truth[None] == ids, self.bins)

    def merge(self, other: CalibrationMetric) -> None:
        """Add the counts of ``other``."""
        self._top, self._each = self._top + other._top, self._each + other._each

    def compute(self) -> dict[str, float]:
        """Return the metrics in percent."""
        top = np.broadcast_to(self._top, (3, self.bins))
        each = np.broadcast_to(self._each, (3, len(self._names()), self.bins))
        gaps, errors = _gaps(top), _expected(each)
        with np.errstate(invalid="ignore"):
            confidence, accuracy = top[1:].sum(1) / top[0].sum()
        largest = float(np.nanmax(gaps)) if top[0].sum() else np.nan
        metrics = {"ECE": float(_expected(top)), "MCE": largest, "mECE": float(mean(errors))}
        metrics |= {"confidence": float(confidence), "accuracy": float(accuracy)}
        metrics |= {f"ECE.{name}": float(value) for name, value in zip(self._names(), errors)}
        return prefixed({name: 100 * value for name, value in metrics.items()}, self.field)

    def table(self) -> str:
        """Return a table of the errors of every class; ``-`` where there is none."""
        errors = _expected(np.broadcast_to(self._each, (3, len(self._names()), self.bins)))
        rows = [["class", "ECE"], *([name, percent(float(value))] for name, value in zip(self._names(), errors))]
        return "\n".join(align([*rows, ["mean", percent(float(mean(errors)))]], (1, -1)))

    def diagram(self) -> np.ndarray:
        """Return the reliability diagram (bins, 3): pixels, mean confidence and accuracy (0 to 1; nan when empty)."""
        pixels, confidence, right = np.broadcast_to(self._top, (3, self.bins))
        with np.errstate(invalid="ignore"):
            return np.stack([pixels, confidence / pixels, right / pixels], 1)

    def _names(self) -> Sequence[str]:
        if not self.classes:
            raise UsageError("CalibrationMetric must know the classes: give 'classes'")
        return self.classes


def probabilities(prediction: Any, target: Any, field: str) -> tuple[Any, Any]:
    """Return probabilities (K, H, W), K of 2 or more, and class ids (H, W), tensors on their device.

    Raises:
        DataError: When there are no probabilities, or their sizes differ from the annotations'.
    """
    import torch

    name = f"{field}_probabilities"
    if hasattr(prediction, "fields") and name not in prediction.fields:
        raise DataError(f"the prediction has no {name}: it was made without probabilities")
    probs = torch.as_tensor(prediction[name] if hasattr(prediction, "fields") else prediction)
    probs = probs.cpu() if probs.device.type == "mps" else probs  # MPS has no float64
    truth = torch.as_tensor(target[field] if hasattr(target, "fields") else target).to(probs.device)
    if probs.ndim != 3 or probs.shape[1:] != truth.shape:
        raise DataError(f"probabilities of shape {tuple(probs.shape)} for annotations of shape {tuple(truth.shape)}")
    return (torch.cat([1 - probs, probs]) if len(probs) == 1 else probs), truth


def _binned(probs: Any, right: Any, bins: int) -> np.ndarray:
    """Return (3, rows, bins): pixels, summed probabilities and correct ones, of probabilities (rows, pixels).

    With many classes, most probabilities are in the lowest bin, which is computed as the remainder.
    """
    import torch

    rows, size = len(probs), len(probs) * bins
    above = probs > 1 / bins
    values = probs[above]
    place = (values * bins).ceil().long().sub(1).clamp(0, bins - 1)  # a bin includes its upper bound
    place += above.nonzero()[:, 0] * bins
    parts = [
        torch.bincount(place, minlength=size).double(),
        torch.bincount(place, values.double(), size),
        torch.bincount(place[right[above]], minlength=size).double(),
    ]
    counts = torch.stack(parts).reshape(3, rows, bins)
    every = [torch.full((rows,), probs.shape[1]).to(counts), probs.sum(1, dtype=torch.float64), right.sum(1).double()]
    counts[:, :, 0] += torch.stack(every) - counts.sum(2)
    return to_array(counts)


def _gaps(counts: np.ndarray) -> np.ndarray:
    """Return the gap of each bin, (..., bins) from (3, ..., bins); nan for an empty one."""
    with np.errstate(invalid="ignore"):
        return np.abs(counts[1] - counts[2]) / counts[0]


def _expected(counts: np.ndarray) -> np.ndarray:
    """Return the mean gap weighted by pixels; nan without pixels."""
    with np.errstate(invalid="ignore"):
        return np.abs(counts[1] - counts[2]).sum(-1) / counts[0].sum(-1)
