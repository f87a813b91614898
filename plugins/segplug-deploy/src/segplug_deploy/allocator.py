"""Settings of the C library's allocator."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as in malloc.h
MMAP_THRESHOLDS = 1 << 26, 1 << 25
"""Sizes in bytes from which a block is mapped and returned when it is freed. Some versions of glibc accept no more than
the second one, which is also as far as their own value grows."""
KEPT = 1 << 27
"""Bytes of freed memory that a process keeps."""


def keep_freed_memory() -> None:
    """Let glibc keep up to `KEPT` bytes for the next image, which otherwise maps its feature maps anew.

    It changes nothing in processes with another C library.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Any setting stops the growth of the threshold, so the other one is only set with it.
        if any(mallopt(_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS):
            mallopt(_TRIM_THRESHOLD, KEPT)
