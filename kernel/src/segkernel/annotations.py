"""Annotations for the values of an argument that its type alone does not express.

    def __init__(self, prob: Probability = 0.5, kernel_size: OddInt = 3, lr: Positive = 0.01) -> None: ...

They are `typing.Annotated` with the constraints of the package ``annotated_types``, which can also be used directly. A
config is checked against them before anything is built, and a violation is reported with its file and line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt, MaxLen, MinLen, MultipleOf, Predicate


def odd(value: int) -> bool:
    """Whether a size is odd, so that a kernel of it has a centre."""
    return value % 2 == 1


FILE = object()
"""Marks a str as a file or folder name, as `pathlib.Path` does by itself: configs read from weight files must not
contain any."""

Positive = Annotated[float, Interval(gt=0, lt=math.inf)]
NonNegative = Annotated[float, Interval(ge=0, lt=math.inf)]
Probability = Annotated[float, Interval(ge=0, le=1)]
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
LabelId = Annotated[int, Interval(ge=0, le=255)]
"""A value of a label map: a class id or the ignored label."""
OddInt = Annotated[int, Ge(1), Predicate(odd)]
FileName = Annotated[str | Path, FILE]
Decay = Annotated[float, Interval(ge=0, lt=1)]
"""Decay of a running mean."""

OF_OPTIMIZERS: dict[str, Any] = {
    **dict.fromkeys(("lr", "weight_decay", "eps", "lr_decay", "lambd", "initial_accumulator_value"), NonNegative),
    **dict.fromkeys(("momentum", "dampening", "momentum_decay", "alpha", "rho"), Probability),
    "betas": tuple[Decay, Decay],
}
"""Ranges of the arguments of torch's optimisers, whose own annotations have none."""

_CHECKS: dict[type, tuple[str, Callable[[Any, Any], bool], str]] = {
    Gt: ("gt", lambda value, limit: value > limit, "above {}"),
    Ge: ("ge", lambda value, limit: value >= limit, "{} or more"),
    Lt: ("lt", lambda value, limit: value < limit, "below {}"),
    Le: ("le", lambda value, limit: value <= limit, "{} or less"),
    MultipleOf: ("multiple_of", lambda value, step: value % step == 0, "a multiple of {}"),
    MinLen: ("min_length", lambda value, length: len(value) >= length, "{} or more of them"),
    MaxLen: ("max_length", lambda value, length: len(value) <= length, "{} or less of them"),
    Predicate: ("func", lambda value, holds: holds(value), "{}"),
}
"""By constraint: the attribute with its bound, whether a value satisfies it, and its text in messages."""


def breaks(value: Any, constraints: Iterable[Any]) -> bool:
    """Whether a value of the right type violates a constraint; nan violates every interval."""
    return not all(holds(value, getattr(constraint, bound)) for constraint, (bound, holds, _) in _known(constraints))


def words(constraints: Iterable[Any]) -> str:
    """Return the text of constraints: ``0 or more, 1 or less``."""
    bounds = [(getattr(constraint, bound), text) for constraint, (bound, _, text) in _known(constraints)]
    return ", ".join(text.format(getattr(bound, "__name__", bound)) for bound, text in bounds if bound != math.inf)


def _known(constraints: Iterable[Any]) -> list[tuple[Any, tuple[str, Callable[[Any, Any], bool], str]]]:
    """Return the constraints that can be checked; an interval is split in two, other metadata is skipped."""
    flat = [part for each in constraints for part in (each if isinstance(each, GroupedMetadata) else [each])]
    return [(each, _CHECKS[type(each)]) for each in flat if type(each) in _CHECKS]
