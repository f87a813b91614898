"""Settings of the allocator, with C libraries that accept them, or do not."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from segplug_training.memory import keep_freed_memory

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


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    keep_freed_memory()
