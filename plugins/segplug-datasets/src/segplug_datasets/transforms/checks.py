"""Shared argument checks of transforms."""

from __future__ import annotations

from collections.abc import Sequence

from segkernel.errors import DataError, UsageError
from segkernel.sample import MultiLabelMap, Sample


def probability(prob: float) -> float:
    """Return ``prob``; UsageError unless it is from 0 to 1."""
    if not 0 <= prob <= 1:
        raise UsageError(f"prob must be from 0 to 1, not {prob}")
    return prob


def ordered(name: str, limits: Sequence[float], least: float) -> tuple[float, float]:
    """Return (lowest, highest); UsageError unless there are two, in order, from ``least`` on."""
    if len(limits) != 2 or not least <= limits[0] <= limits[1]:
        raise UsageError(f"{name} must be (lowest, highest), at least {least}, not {limits}")
    return limits[0], limits[1]


def need_class_ids(sample: Sample, name: str) -> None:
    """Raise a `DataError` unless the sample has one class for each pixel, as transform ``name`` needs."""
    if "seg" not in sample:
        raise DataError(f"{name} needs labels, the field 'seg'", sample.meta.get("path"))
    if isinstance(sample["seg"], MultiLabelMap):
        message = f"{name} needs one class for each pixel, these are labels of task multilabel"
        raise DataError(message, sample.meta.get("path"))
