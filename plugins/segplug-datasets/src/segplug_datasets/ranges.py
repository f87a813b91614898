"""Annotations for arguments that are a range, (low, high)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Predicate

from segkernel.annotations import NonNegative


def ordered(pair: Sequence[float]) -> bool:
    """Whether a pair is (low, high)."""
    return pair[0] <= pair[1]


Range = Annotated[tuple[float, float], Predicate(ordered)]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], Predicate(ordered)]
