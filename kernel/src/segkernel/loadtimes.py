"""Measuring, in the workers, where the time of bringing samples goes; it travels as ``Batch.seconds``."""

from __future__ import annotations

import time
from collections import Counter

SECONDS: Counter[str] = Counter()
"""What each stage has taken in this process since the loader began the present batch."""


class timed:  # a plain class: one made by contextlib takes several times as long
    """Add the seconds that a block takes to a stage; those of other stages within it count for these."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __enter__(self) -> None:
        self.start = time.perf_counter() - SECONDS.total()

    def __exit__(self, *error: object) -> None:
        SECONDS[self.stage] += time.perf_counter() - SECONDS.total() - self.start  # type: ignore[assignment]
