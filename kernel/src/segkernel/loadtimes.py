"""Where the time of bringing samples goes: measured in the workers, summed here, with advice when it costs."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segkernel.sample import Batch

FILES: Counter[str] = Counter()
"""Seconds that this process has spent bringing the bytes of files, under ``read``."""

_FASTER = {
    "read": "copy the data to a local disk, or seg-kernel data pack",
    "decode": "seg-kernel data pack keeps the images decoded",
    "resample": "smaller crops, or scales nearer to 1, cost less",
    "collate": "crops of one size need no padding",
}


class timed:  # a plain class: one made by contextlib takes several times as long
    """Add the seconds that a block takes to those of a stage."""

    def __init__(self, seconds: Counter[str], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.stage] += time.perf_counter() - self.start  # type: ignore[assignment]


@dataclass
class LoadTimes:
    """What bringing training samples cost since the loader was made.

    Args:
        workers: Processes at work.
        seconds: By stage, summed over the samples and the workers: ``read``, ``decode`` (whatever else the data set
            does), each transform by the name of its class, ``resample`` (the geometry they planned), ``collate``.
        samples: How many.
        batches: How many.
        waited: Seconds the main process waited for batches, the first one apart: it waits for workers to start.
    """

    workers: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    samples: int = 0
    batches: int = 0
    waited: float = 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches on; add up what their samples cost."""
        waiting = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - waiting if self.batches else 0.0
            self.batches += 1
            self.samples += len(batch)
            self.seconds.update(batch.seconds)
            yield batch
            waiting = time.perf_counter()

    def stages(self) -> dict[str, float]:
        """Return milliseconds per sample by stage, in the order of the work."""
        return {stage: 1000 * seconds / self.samples for stage, seconds in self.seconds.items()}

    def advice(self, seconds: float) -> str:
        """Return which stage to make faster, and how, when training took ``seconds``; empty where waiting is small."""
        share, stages = self.waited / max(seconds, 1e-9), self.stages()
        if share < 0.1 or self.batches < 50:  # fewer say more of starting up than of going on
            return ""
        worst = max(stages, key=lambda stage: stages[stage])
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        hints = [f"raise data.workers, {self.workers} now, to up to {cores}"] if self.workers < cores else []
        hints.append(_FASTER.get(worst, f"see whether {worst} can do less, or come after the crop"))
        return (
            f"training waited for data {share:.0%} of the time: {worst} takes {stages[worst]:.1f} of "
            f"{sum(stages.values()):.1f} ms per sample\n    {'; '.join(hints)}\n    "
            + ", ".join(f"{stage} {milliseconds:.1f} ms" for stage, milliseconds in stages.items())
        )
