"""Measuring, in the workers, where the time of bringing samples goes; it travels as ``Batch.seconds``."""

from __future__ import annotations

import time
from collections import Counter

FILES: Counter[str] = Counter()
"""Seconds that this process has spent bringing the bytes of files, under ``read``."""


class timed:  # a plain class: one made by contextlib takes several times as long
    """Add the seconds that a block takes to those of a stage."""

    def __init__(self, seconds: Counter[str], stage: str) -> None:
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.stage] += time.perf_counter() - self.start  # type: ignore[assignment]
