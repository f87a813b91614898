"""`ProgressHook`: what a run says at its start and end, a bar in terminals, lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segkernel import Runner, hookimpl
from segplug_training import progress
from segplug_training.progress import ProgressBarHook, ProgressHook, summary
from segplug_training.run_summary import end_text

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
    assert bar.tasks == []
    assert hook._bar is None
    assert "loss" not in caplog.text


class Watch:
    """Notes where the bar of a hook is after each iteration and each image."""

    priority = 99

    def __init__(self, hook: ProgressHook) -> None:
        self.hook = hook
        self.seen: list[tuple[str, float, float | None]] = []

    def note(self) -> None:
        task = self.hook._bar.tasks[-1]
        self.seen.append((task.description, task.completed, task.total))

    @hookimpl
    def after_train_iteration(self) -> None:
        self.note()

    @hookimpl
    def after_prediction(self) -> None:
        self.note()


def test_the_bar_moves_with_every_iteration_and_every_image(make_runner: Callable[..., Runner]) -> None:
    hook = ProgressHook(live=True)
    watch = Watch(hook)
    make_runner(hook, watch, iterations=3, val_interval=2).run()
    images = [("val", number, 8) for number in range(1, 9)]
    assert watch.seen == [("train", 1, 3), ("train", 2, 3), *images, ("train", 3, 3), *images]
    assert hook._bar is None


def test_a_run_says_what_it_is_shows_the_first_iteration_and_says_what_came_out(
    make_runner: Callable[..., Runner], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run = make_runner(iterations=2)
        run.run()
    text = " ".join(caplog.text.split())  # long paths are on a line of their own
    wanted = ["device cpu", "model ToySegmentor", "train 8 images, the first of 16 x 16 (Stripes)"]
    wanted += ["classes 4: a, b, c, d", "length 2 iterations of 2 images, 0.5 epochs", "[1/2] loss"]
    wanted += [f"curves seg-kernel plot {run.work_dir}"]
    assert [line for line in wanted if line not in text] == []


def test_weights_that_a_constructor_was_given_and_nothing_loaded_are_said(
    make_runner: Callable[..., Runner], caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(validate=False, iterations=1)
    runner.model.pretrained = "resnet.pth"
    runner.run()
    assert "the model names the weights resnet.pth but has not loaded them" in caplog.text


def test_a_run_that_fails_says_how_to_resume_and_nothing_of_results(
    make_runner: Callable[..., Runner], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        @hookimpl
        def before_train_iteration(self, run: Any) -> None:
            if run.iteration == 3:
                raise ValueError("fails")

    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="fails"):
        make_runner(Failing(), val_interval=2).run()
    assert "iter_0000002.pt'), then runner.run()" in caplog.text
    assert "curves" not in caplog.text


def test_a_long_silence_ends_with_a_line(
    make_runner: Callable[..., Runner], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LONGEST_SILENCE", -1.0)
    with caplog.at_level(logging.INFO):
        make_runner(iterations=2).run()
    assert "val: 8 of 8 images" in caplog.text


def test_weak_classes_are_named_worst_first(tmp_path: Path) -> None:
    labels = SimpleNamespace(classes=("road", "car", "pole", "sky", "absent"))
    given: Any = SimpleNamespace(labels=labels, work_dir=tmp_path, train_set=None)
    record = {"kind": "test", "IoU.road": 90.0, "IoU.car": 20.0, "IoU.pole": 0.0, "IoU.sky": 80.0}
    text = end_text(given, {**record, "IoU.absent": float("nan")})
    assert text.splitlines()[:2] == [
        "IoU, test road 90.0, sky 80.0, car 20.0, pole 0.0",
        "weak      pole 0.0, car 20.0",
    ]


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
