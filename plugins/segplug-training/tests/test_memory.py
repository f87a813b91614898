"""Settings of the allocator, with C libraries that accept them, or do not."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segplug_training.memory import FreedMemoryHook, keep_freed_memory, return_freed_memory

TRIM, MMAP = -1, -3


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1 << 30, [(MMAP, 1 << 30), (TRIM, (1 << 31) - 1)]),
        (1 << 25, [(MMAP, 1 << 30), (MMAP, 1 << 25), (TRIM, (1 << 31) - 1)]),
        (0, [(MMAP, 1 << 30), (MMAP, 1 << 25)]),
    ],
)
def test_the_trim_threshold_is_only_set_with_an_accepted_mmap_threshold(
    largest: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return int(parameter == TRIM or value <= largest)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert calls == expected


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_freed_memory_is_returned_at_the_end_of_a_run() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    run = SimpleNamespace(engine=SimpleNamespace(device=torch.device("cpu")))
    try:
        keep_freed_memory()
        blocks = [torch.ones(1 << 22) for _ in range(12)]  # 16 MB each
        full = resident()
        del blocks
        kept = resident()
        FreedMemoryHook().after_run(run)
        assert full - kept < 50e6
        assert full - resident() > 150e6
    finally:
        return_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()
