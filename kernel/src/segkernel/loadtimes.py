"""Time spent per loading stage, measured in the workers and passed on as ``Batch.seconds``."""

from __future__ import annotations

import time
from collections import Counter

SECONDS: Counter[str] = Counter()
"""Seconds of each stage in this process since the loader began the current batch."""


class timed:  # a plain class: contextlib.contextmanager is several times slower
    """Add the seconds that a block takes to a stage, less those of other stages within it."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __enter__(self) -> None:
        self.start = time.perf_counter() - SECONDS.total()

    def __exit__(self, *error: object) -> None:
        SECONDS[self.stage] += time.perf_counter() - SECONDS.total() - self.start  # type: ignore[assignment]
