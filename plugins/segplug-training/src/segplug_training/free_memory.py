"""Memory that a process can still allocate, on a GPU or of the system."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device, cgroup: Path = CGROUP) -> int | None:
    """Return the free bytes of a GPU, or what machine, container and ``ulimit`` leave; None if unknown."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = [_of_machine(), _of_container(cgroup), _of_process()]
    return min((each for each in left if each is not None), default=None)


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    return None


def _of_container(cgroup: Path) -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" is not a number
            return max(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()), 0)
    return None


def _of_process() -> int | None:
    """Return the bytes that ``ulimit -d`` leaves."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        return None if limit == resource.RLIM_INFINITY else max(limit - data_size(), 0)
    return None


def data_size() -> int:
    """Return the bytes that this process counts towards ``ulimit -d``.

    Raises:
        OSError: When the system has no ``/proc``.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData")), 0)
