"""Settings of the allocator, with C libraries that accept them, or do not."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
from torch import nn

from segplug_deploy import optimize_for_inference
from segplug_deploy.allocator import KEPT, keep_freed_memory

TRIM, MMAP = -1, -3


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1 << 26, [(MMAP, 1 << 26), (TRIM, KEPT)]),
        (1 << 25, [(MMAP, 1 << 26), (MMAP, 1 << 25), (TRIM, KEPT)]),
        (0, [(MMAP, 1 << 26), (MMAP, 1 << 25)]),
        (None, []),
    ],
)
def test_the_trim_threshold_is_only_set_with_an_accepted_mmap_threshold(
    largest: int | None, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        assert largest is not None
        calls.append((parameter, value))
        return int(parameter == TRIM or value <= largest)

    library = SimpleNamespace() if largest is None else SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    keep_freed_memory()
    assert calls == expected


@pytest.mark.parametrize(("device", "memory", "called"), [("cpu", True, 1), ("cpu", False, 0), ("cuda", True, 0)])
def test_it_is_set_for_models_on_a_cpu(device: str, memory: bool, called: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr("segplug_deploy.inference.keep_freed_memory", lambda: calls.append(None))
    model = nn.Sequential(nn.Flatten())
    model.outputs = {}  # type: ignore[assignment]
    optimize_for_inference(model, device, memory=memory)
    assert len(calls) == called
