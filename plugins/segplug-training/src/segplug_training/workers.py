"""`WorkersHook`: not more data-loader workers than cores."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import Priority, hookimpl
from segplug_training.cores import threads_per_rank

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

log = logging.getLogger("segkernel.workers")


class WorkersHook:
    """Limit the data-loader workers of each set of a run; the samples do not depend on their number.

    More workers than cores compete with the training for the same cores. They are useful only where reading waits, for
    example for a network: set ``limit`` there.

    Args:
        limit: Most workers of a set; None is this process's share of the cores.
    """

    priority = Priority.VERY_HIGH  # before the summary of the run, which names their number

    def __init__(self, limit: PositiveInt | None = None) -> None:
        self.limit = limit

    @hookimpl
    def before_run(self, run: Run) -> None:
        limit = self.limit or threads_per_rank()
        sets = [part for part in (run.train_set, run.val_set, run.test_set) if part is not None]
        asked = max((part.workers for part in sets), default=0)
        if asked > limit and run.is_main:
            why = "the limit of WorkersHook" if self.limit else "one for each core at hand"
            log.info("data.workers: %d in place of %d, %s", limit, asked, why)
        for part in sets:
            part.workers = min(part.workers, limit)
