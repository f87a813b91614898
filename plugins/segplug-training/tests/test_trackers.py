"""Trackers receive the records of a run; fake modules record the calls in place of the trackers' packages.

The recorded calls prove that the hooks follow the packages' documentation, not that the packages work.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from segkernel import hookimpl
from segkernel.errors import SegKernelError
from segkernel.hooks.checkpoint import CheckpointHook
from segplug_training.meter import MeterHook
from segplug_training.trackers import MLflowHook, WandbHook

CONFIG = {"optim": {"optimizer": {"type": "SGD", "lr": 0.01}}}


class Recorder:
    """Notes calls; ``begin`` and all that is not named below returns itself."""

    id, info = "abc", SimpleNamespace(run_id="abc")

    def __init__(self) -> None:
        self.calls = []

    def __getattr__(self, name):
        def call(*positional, **named):
            self.calls.append((name, positional, named))
            return self

        return call

    def of(self, name):
        return [
            (*positional, named) if named else positional for called, positional, named in self.calls if called == name
        ]


@pytest.fixture
def tracker(monkeypatch):
    recorder = Recorder()
    for package in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, recorder)
    return recorder


def test_wandb_gets_records_over_iterations_and_the_config(tracker, make_runner):
    make_runner(WandbHook("roads", mode="offline"), MeterHook(interval=3), config=CONFIG).run()
    ((begin,),) = tracker.of("init")
    assert (begin["project"], begin["mode"], begin["config"], begin["id"]) == ("roads", "offline", CONFIG, None)
    logged = [values for (values,) in tracker.of("log")]
    assert [values["iteration"] for values in logged if "train/loss" in values] == [3, 6]
    assert [values["iteration"] for values in logged if "val/loss" in values] == [2, 4, 6]
    assert tracker.of("finish") == [({"exit_code": 0},)]


def test_mlflow_gets_records_parameters_and_the_config(tracker, make_runner):
    make_runner(MLflowHook("roads"), MeterHook(interval=6), config=CONFIG, seed=3).run()
    assert tracker.of("set_experiment") == [("roads",)]
    ((parameters,),) = tracker.of("log_params")
    assert parameters["optim.optimizer.lr"] == 0.01
    assert parameters["seed"] == 3
    assert [named["step"] for values, named in tracker.of("log_metrics") if "val/loss" in values] == [2, 4, 6]
    assert tracker.of("end_run") == [("FINISHED",)]


def test_a_failed_run_is_marked_as_failed(tracker, make_runner):
    class Fail:
        @hookimpl
        def after_train_iteration(self):
            raise ArithmeticError

    for hook in (WandbHook(), MLflowHook()):
        with pytest.raises(ArithmeticError):
            make_runner(hook, Fail(), folder=hook.package).run()
    assert tracker.of("finish") == [({"exit_code": 1},)]
    assert tracker.of("end_run") == [("FAILED",)]


@pytest.mark.parametrize(("kind", "begin", "key"), [(WandbHook, "init", "id"), (MLflowHook, "start_run", "run_id")])
def test_a_resumed_run_continues_the_run_of_the_tracker(tracker, make_runner, kind, begin, key):
    first = make_runner(kind(), CheckpointHook(), folder="first")
    first.run()
    again = make_runner(kind(), iterations=8, folder="again")
    again.resume(first.work_dir / "checkpoints" / "iter_0000004.pt")
    again.run()
    assert [named[key] for (named,) in tracker.of(begin)] == [None, "abc"]


@pytest.mark.parametrize("kind", [WandbHook, MLflowHook])
def test_the_error_of_a_missing_package_shows_the_install_command(monkeypatch, make_runner, kind):
    monkeypatch.setitem(sys.modules, kind.package, None)
    with pytest.raises(SegKernelError, match=rf"pip install 'segplug-training\[{kind.package}\]'"):
        make_runner(kind()).run()
