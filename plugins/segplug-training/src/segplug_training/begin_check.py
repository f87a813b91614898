"""The length of a run, and a check of hooks that begin later in it: they begin before it ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from segkernel.errors import UsageError

if TYPE_CHECKING:
    from segkernel.hookspecs import Run


def check_begin(run: Run, hook: str, name: str, begin: int, *, by_epoch: bool = False, counted_from: int = 1) -> None:
    """Check that a hook begins before training ends.

    Args:
        run: The run.
        hook: Name of the hook, for the message.
        name: Name of the argument, for the message.
        begin: The first iteration or epoch.
        by_epoch: Whether it is an epoch.
        counted_from: The number of the first one of the run.

    Raises:
        UsageError: When the run is shorter.
    """
    length = epochs_of(run) if by_epoch else run.max_iterations
    if begin >= math.ceil(length) + counted_from:
        unit = "epochs" if by_epoch else "iterations"
        raise UsageError(f"{hook}: {name} {begin} is never reached: the run has {length:.6g} {unit}")


def epochs_of(run: Run) -> float:
    """Return the length of a run in passes over its training set; 0 without one."""
    images = len(run.train_set.dataset) if run.train_set is not None else 0
    return run.max_iterations * getattr(run, "batch_size", 1) / images if images else 0.0
