"""What transforms refuse in their arguments alike."""

from __future__ import annotations

from collections.abc import Sequence

from segkernel.errors import UsageError


def probability(prob: float) -> float:
    """Return ``prob``; UsageError unless it is from 0 to 1."""
    if not 0 <= prob <= 1:
        raise UsageError(f"a probability is from 0 to 1, not {prob}")
    return prob


def ordered(name: str, limits: Sequence[float], least: float) -> tuple[float, float]:
    """Return (lowest, highest); UsageError unless there are two, in order, from ``least`` on."""
    if len(limits) != 2 or not least <= limits[0] <= limits[1]:
        raise UsageError(f"{name} is (lowest, highest), from {least} on, not {limits}")
    return limits[0], limits[1]
