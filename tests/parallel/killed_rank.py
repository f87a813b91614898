"""A hook that kills its process, as an operating system short of memory does."""

from __future__ import annotations

import os
import signal

from segkernel.hookspecs import Run, hookimpl


class KilledRank:
    """Rank 1 is killed in its first attempt.

    Args:
        iteration: After which it is killed.
    """

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    @hookimpl
    def after_iteration(self, run: Run) -> None:
        if run.iteration == self.iteration and not run.is_main and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
