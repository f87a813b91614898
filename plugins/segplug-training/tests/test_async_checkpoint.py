"""`AsyncCheckpointHook` writes the checkpoints of `CheckpointHook` while training continues."""

from __future__ import annotations

import threading

import pytest
import torch

from segkernel import checkpoint as checkpoints
from segkernel import hookimpl
from segkernel.errors import CheckpointError
from segkernel.hooks.checkpoint import CheckpointHook
from segplug_training.async_checkpoint import AsyncCheckpointHook
from segplug_training.ema import EMAHook


def assert_same(first, second, where=""):
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    else:
        assert first == second, where


class Waits:
    """Waits before each iteration until a checkpoint is written."""

    def __init__(self, hook):
        self.hook = hook

    @hookimpl
    def before_train_iteration(self):
        if getattr(self.hook, "_thread", None):
            self.hook._thread.join()


def test_files_and_links_are_those_of_the_plain_hook(make_runner):
    folders = []
    for kind in (CheckpointHook, AsyncCheckpointHook):
        hook = kind(interval=2, keep=2, best="loss", top_k=2)
        runner = make_runner(hook, EMAHook(momentum=0.5), Waits(hook), folder=kind.__name__)
        runner.run()
        folders.append(runner.work_dir / "checkpoints")
    plain, beside = (sorted(path.name for path in folder.glob("*.pt")) for folder in folders)
    assert plain == beside
    assert sum(name.startswith("best_") for name in plain) == 2
    for name in plain:
        first, second = (checkpoints.load(folder / name) for folder in folders)
        for state in (first, second):
            state.pop("metrics_log"), state.pop("path")  # speeds are in the log
            state["hooks"] = list(state["hooks"].values())
        assert_same(first, second, name)


def test_training_continues_while_a_checkpoint_is_written(make_runner, monkeypatch):
    may_write, save = threading.Event(), checkpoints.save
    seen = []

    def slow(path, state):
        assert may_write.wait(20), "nothing was trained meanwhile"
        save(path, state)

    class Watch:
        @hookimpl
        def after_train_iteration(self, run):
            seen.append(run.iteration)
            if run.iteration == 4:
                may_write.set()

    monkeypatch.setattr(checkpoints, "save", slow)
    runner = make_runner(AsyncCheckpointHook(interval=3), Watch())
    runner.run()
    saved = checkpoints.load(runner.work_dir / "checkpoints" / "iter_0000003.pt")
    assert saved["iteration"] == 3
    again = make_runner(AsyncCheckpointHook(interval=3), folder="again")
    again.resume(saved["path"])
    again.run()
    assert_same(dict(again.model.state_dict()), dict(runner.model.state_dict()))


def test_an_interval_of_epochs_ends_in_the_iteration_that_completes_one(make_runner):
    epochs = {"interval": 2, "by_epoch": True, "keep": None, "best": None}
    length = {"iterations": 12, "batch_size": 3, "validate": False}  # of eight images: epochs end at 3, 6, 8 and 11

    class Wait:
        """No checkpoint is postponed."""

        @hookimpl
        def after_train_iteration(self, run):
            for thread in threading.enumerate():
                if thread.name == "checkpoint":
                    thread.join()

    runner = make_runner(AsyncCheckpointHook(**epochs), Wait(), **length)
    runner.run()
    saved = sorted((runner.work_dir / "checkpoints").glob("iter_*.pt"))
    assert [path.stem for path in saved] == ["iter_0000006", "iter_0000011", "iter_0000012"]
    again = make_runner(AsyncCheckpointHook(**epochs), Wait(), folder="again", **length)
    again.resume(saved[0])
    again.run()
    saved = sorted((again.work_dir / "checkpoints").glob("iter_*.pt"))
    assert [path.stem for path in saved] == ["iter_0000011", "iter_0000012"]


def test_a_checkpoint_that_is_due_during_a_write_follows_it(make_runner, monkeypatch):
    may_write, save = threading.Event(), checkpoints.save
    hook = AsyncCheckpointHook(interval=1, keep=None, best=None)

    def slow(path, state):
        assert may_write.wait(20), "training waits for the writer"
        save(path, state)

    class Release:
        @hookimpl
        def before_train_iteration(self, run):
            if run.iteration == 3:
                may_write.set()
                hook._thread.join()

    monkeypatch.setattr(checkpoints, "save", slow)
    runner = make_runner(hook, Release(), iterations=5, val_interval=5)
    runner.run()
    saved = [path.name for path in sorted((runner.work_dir / "checkpoints").glob("iter_*.pt"))]
    assert saved[:2] == ["iter_0000001.pt", "iter_0000004.pt"]


def test_a_write_that_fails_ends_the_run(make_runner, monkeypatch):
    def fail(path, state):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr(checkpoints, "save", fail)
    runner = make_runner(AsyncCheckpointHook(interval=2))
    with pytest.raises(CheckpointError, match="the disk is full"):
        runner.run()
    assert runner.iteration == 4, "it is told when the next one is due"


def test_what_others_save_is_there_when_they_go_on(make_runner):
    class Own:
        @hookimpl
        def after_iteration(self, run):
            assert run.save(run.work_dir / "own.pt").exists()

    make_runner(AsyncCheckpointHook(), Own(), iterations=2).run()
