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
HOLE = 1 << 18
"""Bytes from which free memory between blocks is given up."""


def keep_freed_memory() -> None:
    """Let glibc keep up to `KEPT` bytes for the next image, which otherwise maps its feature maps anew.

    It changes nothing in processes with another C library.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Any setting stops the growth of the threshold, so the other one is only set with it.
        if any(mallopt(_MMAP_THRESHOLD, size) for size in MMAP_THRESHOLDS):
            mallopt(_TRIM_THRESHOLD, KEPT)


def give_up_holes() -> None:
    """Return free memory to the system, and let glibc allocate behind the blocks that are in use from now on.

    Loading a model leaves holes between blocks. Feature maps would be scattered over them, and the process would keep
    up to twice the memory that they need. Holes are filled with blocks that are never written to, which take addresses
    only.
    """
    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype, libc.malloc.restype, libc.sbrk.restype = _Info, ctypes.c_void_p, ctypes.c_void_p
        libc.malloc.argtypes = libc.malloc_trim.argtypes = [ctypes.c_size_t]
        libc.malloc_trim(0)
        end, free = libc.sbrk(0), libc.mallinfo2().fordblks
        for _ in range(free // HOLE):
            if not libc.malloc(HOLE) or libc.sbrk(0) != end:
                break


class _Info(ctypes.Structure):
    """``struct mallinfo2``"""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip
