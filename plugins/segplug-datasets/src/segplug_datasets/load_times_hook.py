"""`LoadTimesHook`: the time per loading stage, and advice when training waits for data."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from segkernel.annotations import PositiveInt
from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.sample import Batch

log = logging.getLogger("segkernel.load_times")  # below the kernel's logger, so that it reaches the run's log file

_FASTER = {
    "read": "copy the data to a local disk, or seg-kernel data pack",
    "decode": "seg-kernel data pack keeps the images decoded; PNGs: pip install 'segplug-datasets[fast-png]'",
    "resample": "use smaller crops, or scales closer to 1",
    "collate": "crops of one size need no padding",
}
_FEWEST = 50  # batches; with fewer, start-up dominates


class LoadTimesHook:
    """Report at the end which loading stage to speed up, if training waited for data a tenth of the time or more.

    The stages are ``read``, ``decode`` (the rest of the data set's work), each transform by class name, ``resample``
    (the geometry they planned) and ``collate``, summed over the workers of this rank.

    Args:
        interval: Iterations between records of kind ``load`` with the mean milliseconds per sample of each stage so
            far; None writes none.
    """

    priority = Priority.BELOW_NORMAL

    def __init__(self, interval: PositiveInt | None = None) -> None:
        self.interval = interval
        self._reset()

    def _reset(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.samples = self.batches = 0
        self.waited = self.trained = self._started = 0.0

    @hookimpl
    def before_train(self) -> None:
        self._reset()

    @hookimpl
    def before_train_iteration(self) -> None:
        self._started = time.perf_counter()

    @hookimpl
    def after_train_iteration(self, run: Run, batches: list[Batch]) -> None:
        waited = run.data_wait if self.batches else 0.0  # the first wait includes starting the workers
        self.waited += waited
        self.trained += waited + time.perf_counter() - self._started
        for batch in batches:
            self.seconds.update(batch.seconds)
            self.samples += len(batch)
            self.batches += 1
        if self.interval and run.iteration % self.interval == 0:
            run.emit({"kind": "load", "iteration": run.iteration, **self.stages()})

    @hookimpl
    def after_train(self, run: Run) -> None:
        if run.is_main and self.batches >= _FEWEST and run.train_set is not None:
            message = advice(self.waited / max(self.trained, 1e-9), self.stages(), run.train_set.workers)
            if message:
                log.warning("%s", message)

    def stages(self) -> dict[str, float]:
        """Return milliseconds per sample by stage, in order of execution."""
        return {stage: round(1000 * seconds / self.samples, 3) for stage, seconds in self.seconds.items()}


def advice(share: float, stages: Mapping[str, float], workers: int) -> str:
    """Return which stage to speed up, and how; empty if little time was spent waiting.

    Args:
        share: Share of the training time spent waiting for data, 0 to 1.
        stages: Milliseconds per sample of each stage.
        workers: Number of worker processes.
    """
    if share < 0.1 or not stages:
        return ""
    worst = max(stages, key=lambda stage: stages[stage])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    hints = [f"increase data.workers (now {workers}), up to {cores}"] if workers < cores else []
    hints.append(_FASTER.get(worst, f"simplify {worst}, or move it after the crop"))
    return (
        f"training waited for data {share:.0%} of the time: {worst} takes {stages[worst]:.1f} of "
        f"{sum(stages.values()):.1f} ms per sample\n    {'; '.join(hints)}\n    "
        + ", ".join(f"{stage} {milliseconds:.1f} ms" for stage, milliseconds in stages.items())
    )
