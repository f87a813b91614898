"""`MetricsLogHook`: one line per record, without duplicates after a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segplug_training.metrics_log import MetricsLogHook


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return SimpleNamespace(is_main=True, work_dir=tmp_path)


def write(run: Any, *kinds: str) -> None:
    for kind in kinds:
        MetricsLogHook().on_record(run, {"kind": kind, "iteration": 5, "loss": 0.5})


def kinds(run: Any) -> list[str]:
    return [json.loads(line)["kind"] for line in (run.work_dir / "metrics.jsonl").read_text().splitlines()]


def test_non_finite_values_are_null(run: Any) -> None:
    MetricsLogHook().on_record(run, {"kind": "val", "iteration": 5, "mIoU": math.nan})
    assert json.loads((run.work_dir / "metrics.jsonl").read_text()) == {"kind": "val", "iteration": 5, "mIoU": None}


def test_resume_truncates_the_log_to_the_checkpoint(run: Any) -> None:
    write(run, "train", "val")
    checkpoint: dict[str, Any] = {}
    MetricsLogHook().save_checkpoint(run, checkpoint)
    write(run, "test")  # at the same iteration as the checkpoint
    MetricsLogHook().load_checkpoint(run, checkpoint)
    assert kinds(run) == ["train", "val"]
    write(run, "test")
    assert kinds(run) == ["train", "val", "test"]


def test_a_checkpoint_of_a_run_without_a_log_leaves_it_as_it_is(run: Any) -> None:
    write(run, "train")
    MetricsLogHook().load_checkpoint(run, {})
    assert kinds(run) == ["train"]


def test_other_ranks_write_nothing(run: Any) -> None:
    run.is_main = False
    write(run, "train")
    assert not list(run.work_dir.iterdir())
