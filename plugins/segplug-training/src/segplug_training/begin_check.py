"""A check of hooks that begin later in a run: they begin before it ends."""

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
        by_epoch: Whether it is an epoch; this is checked if the length of the run is given in epochs.
        counted_from: The number of the first one of the run.

    Raises:
        UsageError: When the run is shorter.
    """
    length = (run.config.get("schedule") or {}).get("epochs") if by_epoch else run.max_iterations
    if length is not None and begin >= math.ceil(length) + counted_from:
        unit = "epochs" if by_epoch else "iterations"
        raise UsageError(f"{hook}: {name} {begin} is never reached: the run has {length:g} {unit}")
