"""`ProgressBarHook`: a bar in terminals, lines elsewhere."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from segplug_training.progress import ProgressBarHook, summary

RECORD = {"kind": "train", "iteration": 5, "loss": 0.5, "seconds_per_iteration": 0.1}


def run(**changes: Any) -> Any:
    return SimpleNamespace(**({"is_main": True, "iteration": 5, "max_iterations": 10} | changes))


def test_a_bar_advances_with_every_record_and_is_removed_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    hook = ProgressBarHook(interval=5, live=True)
    with caplog.at_level(logging.INFO):
        hook.before_train(run(iteration=0))
        bar = hook._bar
        hook.on_record(run(), RECORD)
        assert bar.tasks[0].completed == 5
        assert "loss 0.5" in bar.tasks[0].fields["text"]
        hook.after_train()
    assert bar.finished is False
    assert hook._bar is None
    assert not caplog.records


@pytest.mark.parametrize(("live", "is_main"), [(False, True), (None, True), (True, False)])
def test_there_is_no_bar_elsewhere(live: bool | None, is_main: bool, caplog: pytest.LogCaptureFixture) -> None:
    hook = ProgressBarHook(interval=5, live=live)  # under pytest, standard error is no terminal
    with caplog.at_level(logging.INFO):
        hook.before_train(run(iteration=0, is_main=is_main))
        hook.on_record(run(is_main=is_main), RECORD)
    assert hook._bar is None
    assert ("[5/10]" in caplog.text) == is_main


def test_a_line_shows_every_metric_but_those_of_one_class() -> None:
    record = {
        "kind": "val",
        "iteration": 5,
        "mIoU": 50.0,
        "IoU.road": 40.0,
        "ECE": 4.25,
        "mECE": 1.5,
        "ECE.road": 2.0,
        "material.mIoU": 30.0,
        "material.IoU.wood": 20.0,
        "material.Acc.v1.5": 10.0,
        "material.mAcc": 60.0,
        "depth.RMSE": 0.5,
    }
    shown = "mIoU 50  ECE 4.25  mECE 1.5  material.mIoU 30  material.mAcc 60  depth.RMSE 0.5"
    assert summary(record) == shown


def test_rates_are_shown_from_the_lowest_to_the_highest() -> None:
    assert summary({"lr": 0.01, "loss": 0.5}) == "lr 0.01  loss 0.5"
    assert summary({"lr": 0.01, "lr.x10": 0.1, "loss": 0.5}) == "lr 0.01 to 0.1  loss 0.5"
