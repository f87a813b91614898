"""Number of cores this process may use, respecting CPU affinity and container limits."""

from __future__ import annotations

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Return the number of cores, 1 or more, that this process may keep busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, ceil(_quota(cgroup) or cores)), 1)


def threads_per_rank() -> int:
    """Return this process's share of the cores, split equally between the processes on the machine."""
    return max(available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def _quota(cgroup: Path) -> float | None:
    """Return the container's CPU quota in cores; torch and OpenMP ignore it and start a thread per core."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (cgroup / "cpu.max").read_text().split()  # cgroup v2; "max" is not a number
        return int(limit) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    return None
