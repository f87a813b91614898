"""Settings of the C library's allocator."""

from __future__ import annotations

import ctypes
from contextlib import suppress

MMAP_THRESHOLDS = 1 << 30, 1 << 25
"""Sizes in bytes from which a block is mapped and returned when it is freed. Some versions of glibc accept no more than
the second one, which is also as far as their own value grows."""


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: otherwise a quarter of a CPU step is page faults."""
    trim_threshold, mmap_threshold = -1, -3
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        # Any setting stops the growth of the threshold, so the other one is only set with it.
        if any(mallopt(mmap_threshold, size) for size in MMAP_THRESHOLDS):
            mallopt(trim_threshold, (1 << 31) - 1)
