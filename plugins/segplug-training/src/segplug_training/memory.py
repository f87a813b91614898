"""Settings of the C library's allocator."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import TYPE_CHECKING

from segkernel.hookspecs import Priority, hookimpl

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as in malloc.h

MMAP_THRESHOLDS = 1 << 30, 1 << 25
"""Sizes in bytes from which a block is mapped and returned when it is freed. Some versions of glibc accept no more than
the second one, which is also as far as their own value grows."""


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: otherwise a quarter of a CPU step is page faults."""
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        # Any setting stops the growth of the threshold, so the other one is only set with it.
        if any(mallopt(_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS):
            mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Return freed memory to the system, and give glibc the largest thresholds that it would choose itself."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, MMAP_THRESHOLDS[-1])
        library.mallopt(_TRIM_THRESHOLD, 2 * MMAP_THRESHOLDS[-1])
        library.malloc_trim(0)


class FreedMemoryHook:
    """Return the memory to the system that the engine let the C library keep for the steps, when the run ends."""

    priority = Priority.VERY_LOW

    @hookimpl
    def after_run(self, run: Run) -> None:
        if run.engine.device.type == "cpu":
            return_freed_memory()
