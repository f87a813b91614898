"""`WorkersHook` limits the workers of all sets and says so once."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from segplug_training.workers import WorkersHook


@pytest.mark.parametrize(
    ("asked", "cores", "limit", "used"), [(4, 1, None, 1), (4, 8, None, 4), (0, 1, None, 0), (4, 1, 3, 3)]
)
def test_workers_are_limited_to_the_cores(
    asked: int, cores: int, limit: int | None, used: int, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("segplug_training.workers.threads_per_rank", lambda: cores)
    caplog.set_level(logging.INFO)
    train, val = SimpleNamespace(workers=asked), SimpleNamespace(workers=0)
    WorkersHook(limit).before_run(SimpleNamespace(train_set=train, val_set=val, test_set=None, is_main=True))
    assert (train.workers, val.workers) == (used, 0)
    why = "the limit of WorkersHook" if limit else "one for each core at hand"
    said = [f"data.workers: {used} in place of {asked}, {why}"] * (used < asked)
    assert [record.message for record in caplog.records] == said
