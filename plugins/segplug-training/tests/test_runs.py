"""``seg-kernel runs``: state, best metric and resume line of run directories."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from segkernel.errors import UsageError
from segplug_training.runs import command, describe, find_runs

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(name: str, records: list[dict[str, Any]], schedule: str = "iterations: 100", log: str = "") -> Path:
        run = tmp_path / "work_dirs" / name
        (run / "checkpoints").mkdir(parents=True)
        (run / "log.txt").write_text(log)
        (run / "config.yaml").write_text(f"schedule: {{{schedule}}}\n")
        (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "tr')
        (run / "checkpoints" / "iter_0000040.pt").touch()
        return run

    return write


def train(iteration: int, epoch: float = 0.0) -> dict[str, Any]:
    return {"kind": "train", "iteration": iteration, "epoch": epoch, "loss": 1.0}


def state(run: Path) -> str:
    return describe(run, run.parent).state


def test_a_plot_leaves_the_date_of_a_run(make: Make) -> None:
    run = make("a", [train(100)])
    for name in ("log.txt", "metrics.jsonl"):
        os.utime(run / name, (1e9, 1e9))
    (run / "curves.png").touch()
    assert describe(run, run.parent).date.startswith("2001-09-")


def test_the_state_follows_from_length_and_log(make: Make) -> None:
    assert state(make("a", [train(100)])) == "finished"
    assert state(make("b", [train(40)])) == "interrupted at 40 of 100"
    assert state(make("c", [train(40)], log="stopping after iteration 40: no better mIoU")) == "stopped early"
    assert state(make("d", [train(40)], log="stopping after iteration 40: signal 2")) == "interrupted at 40 of 100"
    assert state(make("e", [train(40, 2.0)], "epochs: 2")) == "finished"
    assert state(make("f", [train(40, 0.5)], "epochs: 2")) == "interrupted in epoch 0.5 of 2"
    tested = make("g", [{"kind": "test", "iteration": 40, "mIoU": 50.0}])
    (tested / "checkpoints" / "iter_0000040.pt").unlink()
    assert state(tested) == "test"
    assert state(make("h", [])) == "interrupted at 40 of 100"
    new = make("i", [])
    (new / "checkpoints" / "iter_0000040.pt").unlink()
    assert state(new) == "not started"


def test_the_iteration_of_an_interrupted_run_is_that_of_its_newest_checkpoint(make: Make) -> None:
    run = make("a", [train(20)])
    (run / "checkpoints" / "iter_0000040.pt").rename(run / "checkpoints" / "iter_0000028.pt")
    assert state(run) == "interrupted at 28 of 100", "the log is written at intervals, the checkpoint when it stops"


def test_a_run_whose_directory_is_locked_is_running(make: Make) -> None:
    fcntl, multiprocessing = pytest.importorskip("fcntl"), pytest.importorskip("multiprocessing")
    run = make("a", [train(40)])
    context = multiprocessing.get_context("fork")
    locked, end = context.Event(), context.Event()

    def hold() -> None:
        with (run / ".lock").open("w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            locked.set()
            end.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert locked.wait(60)
    assert (state(run), describe(run, run).resume) == ("running", "")
    end.set()
    process.join()
    assert state(run) == "interrupted at 40 of 100"


def test_an_unfinished_run_has_the_line_that_resumes_it(make: Make) -> None:
    run = make("my/20260101_120000", [train(40)])
    wanted = f"seg-kernel run {run}/config.yaml --work-dir {run} --resume"
    assert describe(run, run).resume == wanted
    (run / "environment.json").write_text('{"ranks": 2}')
    assert describe(run, run).resume == f"{wanted} --launch 2"
    (run / "checkpoints" / "iter_0000040.pt").unlink()
    assert describe(run, run).resume == ""


def test_the_best_is_that_of_the_kept_checkpoint(make: Make) -> None:
    values = [{"kind": "val", "iteration": n, "mIoU": value, "mDice": 9.0} for n, value in ((20, 60.0), (40, 55.5))]
    run = make("a", [*values, train(100)])
    assert describe(run, run).best == "mIoU 60.00 at 20"
    (run / "checkpoints" / "best_mDice_iter_0000040.pt").touch()
    assert describe(run, run).best == "mDice 9.00 at 40"


def test_runs_are_found_at_any_depth_and_listed(make: Make, tmp_path: Path) -> None:
    runs = [make("a/1", [train(100)]), make("a/2", [train(40)]), make("b", [])]
    (tmp_path / "work_dirs" / "other").mkdir()
    assert sorted(find_runs(tmp_path)) == sorted(runs)
    shown = CliRunner().invoke(command, [str(tmp_path / "work_dirs")]).output
    assert all(text in shown for text in ("a/1", "a/2", "finished", "interrupted at 40 of 100", "--resume"))


def test_damaged_files_count_as_not_written(make: Make) -> None:
    run = make("a", [])
    (run / "config.yaml").write_text("[1]")
    (run / "metrics.jsonl").write_bytes(b"\xff\xfe{")
    (run / "environment.json").write_text("{")
    (run / "checkpoints" / "iter_0000040.pt").rename(run / "checkpoints" / "iter_x.pt")
    assert state(run) == "not started"


def test_a_missing_or_an_empty_folder(tmp_path: Path) -> None:
    assert "contains no runs" in CliRunner().invoke(command, [str(tmp_path)]).output
    with pytest.raises(UsageError, match="no such folder"):
        CliRunner().invoke(command, [str(tmp_path / "nosuch")], catch_exceptions=False)
