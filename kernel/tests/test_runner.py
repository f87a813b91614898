"""The runner: training, validation, test, resume, signals, and errors."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segkernel import Evaluation, Predictor, Priority, Runner, hookimpl, rundir
from segkernel.catalog import Catalog
from segkernel.errors import CheckpointError, DataError, Interrupted, NotInstalledError, UsageError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.hookspecs import Run
from segkernel.sample import Targets


class Recorder:
    """Records every call of a hook method."""

    def __init__(self, note=None, priority=Priority.NORMAL) -> None:
        self.moments: list[str] = [] if note is None else note
        self.priority = priority
        self.records = []

    @hookimpl
    def on_record(self, record):
        self.records.append(record)

    @hookimpl
    def before_run(self):
        self.moments.append(f"before_run {int(self.priority)}")

    @hookimpl
    def after_validation(self, run, metrics):
        self.moments.append(f"validated {run.iteration}")

    @hookimpl
    def after_train_epoch(self, run, epoch):
        self.moments.append(f"epoch {epoch} at {run.iteration}")


class At:
    """Does something after iteration ``n``."""

    def __init__(self, n, action) -> None:
        self.n, self.action = n, action

    @hookimpl
    def after_train_iteration(self, run):
        if run.iteration == self.n:
            self.action(run)


def weights(runner):
    return torch.cat([value.flatten().float() for value in runner.model.state_dict().values()])


def test_run_trains_validates_tests_and_writes_the_run_directory(make_runner):
    recorder = Recorder()
    runner = make_runner(hooks=[recorder])
    metrics = runner.run()
    assert metrics["mIoU"] > 60
    assert recorder.moments == ["before_run 50", "epoch 1 at 3", "validated 5", "epoch 2 at 6", "epoch 3 at 9",
                                "validated 10", "epoch 4 at 12", "validated 12"]  # fmt: skip
    names = {path.name for path in runner.work_dir.iterdir()}
    assert {"checkpoints", "log.txt"} <= names
    records = [record for record in recorder.records if record["kind"] != "train"]
    assert [record["kind"] for record in records] == ["val", "val", "val", "test"]
    assert all("loss" in record for record in records[:-1])


def test_epochs_and_their_validation_interval_are_counted_in_samples(make_runner):
    recorder = Recorder()
    make_runner(hooks=[recorder], iterations=None, epochs=2.5, val_interval=1).run()
    assert [m for m in recorder.moments if m.startswith("validated")] == ["validated 3", "validated 6", "validated 8"]


def test_hooks_run_by_priority_and_equal_ones_in_the_given_order(make_runner):
    note: list[str] = []
    order = [Priority.LOW, Priority.VERY_HIGH, Priority.NORMAL, Priority.VERY_LOW, Priority.HIGH]
    make_runner(hooks=[Recorder(note, p) for p in order], iterations=1, val=None, test=None).train()
    assert [m for m in note if m.startswith("before_run")] == [f"before_run {p}" for p in (10, 30, 50, 70, 90)]


def test_an_unknown_hook_method_is_refused(make_runner):
    class Misspelt:
        @hookimpl
        def before_trian(self):
            """Not a hook method."""

    with pytest.raises(UsageError, match="before_trian"):
        make_runner(hooks=[Misspelt()])


def test_accumulation_uses_the_same_samples_as_one_large_batch(make_runner, tmp_path):
    seen: dict[int, list[str]] = {}

    class Names:
        def __init__(self, key):
            self.key = key

        @hookimpl
        def before_train_iteration(self, batches):
            seen.setdefault(self.key, []).extend(m["name"] for b in batches for m in b.meta)

    for micro in (2, 4):
        runner = make_runner(hooks=[Names(micro)], iterations=4, val=None, test=None, work_dir=tmp_path / str(micro))
        runner.train_set.micro_batch = micro
        runner.accumulate = 4 // micro
        runner.train()
    assert seen[2] == seen[4]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bit_identical(make_runner, tmp_path, workers):
    keep_all = lambda: [CheckpointHook(interval=1, keep=None)]  # noqa: E731
    whole = make_runner(hooks=keep_all(), workers=workers, clip_grad={"max_norm": 1.0})
    whole.train()
    again = make_runner(hooks=keep_all(), workers=workers, clip_grad={"max_norm": 1.0}, work_dir=tmp_path / "again")
    again.resume(whole.work_dir / "checkpoints" / "iter_0000007.pt")
    again.train()
    assert torch.equal(weights(whole), weights(again))


def test_resume_refuses_bare_weights(make_runner, tmp_path):
    torch.save(make_runner().model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="load_from"):
        make_runner().resume(tmp_path / "weights.pt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_ends_the_run(make_runner, number):
    runner = make_runner(hooks=[At(4, lambda run: os.kill(os.getpid(), number))])
    with pytest.raises(Interrupted) as caught:
        runner.run()
    assert caught.value.exit_code == 128 + number
    assert (runner.work_dir / "checkpoints" / "iter_0000004.pt").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupted_validation_is_rerun_on_resume(make_runner):
    runner = make_runner(hooks=[At(5, lambda run: os.kill(os.getpid(), signal.SIGINT))])
    with pytest.raises(Interrupted):
        runner.train()
    recorder = Recorder()
    again = make_runner(hooks=[recorder])
    again.resume(runner.work_dir / "checkpoints" / "iter_0000005.pt")
    again.train()
    assert "validated 5" in recorder.moments


def test_stop_ends_training_with_a_checkpoint(make_runner):
    runner = make_runner(hooks=[At(3, lambda run: run.stop("enough"))])
    runner.train()
    assert runner.iteration == 3
    assert (runner.work_dir / "checkpoints" / "iter_0000003.pt").exists()


def test_unreadable_training_samples_are_replaced_and_named(make_runner, rectangles, caplog):
    from segkernel.data import Loader

    with caplog.at_level(logging.WARNING):
        make_runner(train=Loader(rectangles(broken=(1, 2)), micro_batch=2), test=None).run()
    assert "image_1.png: cannot be read" in caplog.text


def test_a_training_set_without_usable_samples_stops(make_runner, rectangles):
    from segkernel.data import Loader

    with pytest.raises(DataError, match="10 samples in a row"):
        make_runner(train=Loader(rectangles(broken=tuple(range(12))), micro_batch=2)).train()


def test_evaluation_names_every_unreadable_sample_at_the_end(make_runner, rectangles):
    from segkernel.data import Loader

    runner = make_runner(test=Loader(rectangles(6, broken=(1, 4)), micro_batch=2))
    with pytest.raises(DataError, match=r"2 samples(.|\n)*image_1(.|\n)*image_4"):
        runner.test()


def test_an_empty_training_set_is_named(make_runner, rectangles):
    with pytest.raises((DataError, UsageError), match="empty"):
        make_runner(train=rectangles(0)).train()


def test_batch_size_that_micro_batches_do_not_fill_is_refused(make_runner):
    with pytest.raises(UsageError, match="multiple"):
        make_runner(batch_size=3)


def test_length_is_iterations_or_epochs(make_runner):
    with pytest.raises(UsageError, match=r"iterations and epochs are both set: remove one"):
        make_runner(epochs=1)


def test_a_run_is_saved_when_its_first_validation_lacks_the_best_metric(make_runner):
    runner = make_runner(hooks=[CheckpointHook(best="mIuO")])
    with pytest.raises(UsageError, match="did you mean 'mIoU'"):
        runner.run()
    again = make_runner(hooks=[CheckpointHook(best="mIoU")])
    again.resume(runner.work_dir / "checkpoints" / "iter_0000005.pt")
    again.run()
    assert again.iteration == 12


def test_checkpoints_keep_the_last_and_the_best(make_runner):
    runner = make_runner(hooks=[CheckpointHook(interval=2, keep=2, best=["mIoU", "loss"], top_k=2)])
    runner.train()
    names = sorted(path.name for path in (runner.work_dir / "checkpoints").iterdir())
    assert [n for n in names if n.startswith("iter")] == ["iter_0000010.pt", "iter_0000012.pt"]
    assert len([n for n in names if n.startswith("best_mIoU")]) == 2
    assert len([n for n in names if n.startswith("best_loss")]) == 2


def test_the_test_uses_the_best_weights(make_runner, caplog):
    runner = make_runner()
    with caplog.at_level(logging.INFO, "segkernel"):
        runner.run()
    assert "best_mIoU" in caplog.text


def test_a_test_is_recorded_at_the_iteration_of_its_weights(make_runner):
    records = []

    class Keep:
        @hookimpl
        def on_record(self, record):
            records.append(record)

    runner = make_runner(hooks=[Keep()])
    runner.train()
    first = runner.work_dir / "checkpoints" / "iter_0000005.pt"
    runner.test(first)
    assert [record["iteration"] for record in records if record.get("kind") == "test"] == [5]
    assert runner.iteration == 12


class Misspelt:
    @hookimpl
    def after_train_iter(self): ...


def test_a_misspelt_hook_method_gets_a_suggestion(make_runner):
    with pytest.raises(UsageError) as caught:
        make_runner(hooks=[Misspelt()])
    expected = "unknown hook method 'after_train_iter'; did you mean 'after_train_iteration' or 'after_train'?"
    assert str(caught.value) == f"Misspelt: {expected}"


class Falling:
    """A metric that is worse with every validation; it starts at ``best``."""

    def __init__(self, best):
        self.next = best

    def update(self, prediction, target): ...

    def compute(self):
        self.next -= 1.0
        return {"mIoU": self.next + 1}


def resumed_elsewhere(make_runner, tmp_path, best):
    """Return a run that resumes iteration 10 of another one, whose best, 90, was at iteration 5."""
    hooks = [CheckpointHook(interval=1, keep=None)]
    first = make_runner(hooks=hooks, iterations=10, evaluation=Evaluation([Falling(90.0)]), test=None)
    first.run()
    again = make_runner(work_dir=tmp_path / "new", evaluation=Evaluation([Falling(best)]), test=None)
    return again, first.work_dir / "checkpoints"


@pytest.mark.parametrize("kept", ["iter_0000005.pt", "best_mIoU_iter_0000005.pt"])
def test_best_is_best_of_the_whole_history_in_another_directory_too(make_runner, tmp_path, kept):
    again, old = resumed_elsewhere(make_runner, tmp_path, best=80.0)
    for name in {"iter_0000005.pt", "best_mIoU_iter_0000005.pt"} - {kept}:
        (old / name).unlink()
    again.resume(old / "iter_0000010.pt")
    again.run()
    best = again.best_checkpoint()
    assert best == tmp_path / "new" / "checkpoints" / "best_mIoU_iter_0000005.pt"
    assert torch.load(best, weights_only=True)["iteration"] == 5


def test_a_missing_best_checkpoint_is_logged(make_runner, tmp_path, caplog):
    again, old = resumed_elsewhere(make_runner, tmp_path, best=80.0)
    (tmp_path / "copied.pt").write_bytes((old / "iter_0000010.pt").read_bytes())
    again.resume(tmp_path / "copied.pt")
    assert "90 at iteration 5, is not in the checkpoint's folder" in caplog.text
    again.run()
    assert again.best_checkpoint().name == "best_mIoU_iter_0000012.pt"


def test_a_better_checkpoint_than_that_of_the_history_is_the_best(make_runner, tmp_path):
    again, old = resumed_elsewhere(make_runner, tmp_path, best=95.0)
    again.resume(old / "iter_0000010.pt")
    again.run()
    assert again.best_checkpoint().name == "best_mIoU_iter_0000012.pt"


def test_validation_does_not_change_training(make_runner, tmp_path):
    often = make_runner(val_interval=1)
    often.train()
    never = make_runner(val=None, val_interval=None, work_dir=tmp_path / "never")
    never.train()
    assert torch.equal(weights(often), weights(never))


def test_validation_may_begin_late(make_runner):
    seen = []

    class Recorder:
        @hookimpl
        def after_validation(self, run, metrics):
            seen.append(run.iteration)

    runner = make_runner(val_interval=1, val_begin=3, hooks=[Recorder()])
    runner.train()
    assert seen == list(range(3, runner.max_iterations + 1))


def test_format_only_predicts_without_annotations(make_runner, rectangles):
    class Bare(rectangles):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            del sample["seg"]
            return sample

    with pytest.raises(DataError, match="format_only"):
        make_runner(test=Bare(3)).test()
    runner = make_runner(test=Bare(3), evaluation=Evaluation(format_only=True))
    assert runner.test() == {}


class Stages:
    """Records what is opened and closed, and fails at a given stage."""

    def __init__(self, note: list[str], name: str, fail: str = "", priority: int = 50) -> None:
        self.note, self.name, self.fail, self.priority = note, name, fail, priority

    def _at(self, moment: str) -> None:
        self.note.append(f"{moment} {self.name}")
        if moment == self.fail:
            raise ValueError(moment)

    @hookimpl
    def before_run(self):
        self._at("before_run")

    @hookimpl
    def after_run(self):
        self._at("after_run")

    @hookimpl
    def before_train(self):
        self._at("before_train")

    @hookimpl
    def after_train(self):
        self._at("after_train")

    @hookimpl
    def before_validation(self):
        self._at("before_validation")

    @hookimpl
    def after_validation(self):
        self._at("after_validation")

    @hookimpl
    def validation_ended(self):
        self._at("validation_ended")

    @hookimpl
    def after_prediction(self):
        if self.fail == "prediction":
            raise ValueError("prediction")


def nested(stage: str, *names: str) -> list[str]:
    return [f"{stage} {name}" for name in names]


def test_stages_are_closed_in_reverse_order_also_on_errors(make_runner):
    note: list[str] = []
    hooks = [Stages(note, "b", "prediction"), Stages(note, "a", priority=10), Stages(note, "c")]
    with pytest.raises(ValueError, match="prediction"):
        make_runner(hooks=hooks, iterations=1, test=None).run()
    assert note == [
        *nested("before_run", "a", "b", "c"), *nested("before_train", "a", "b", "c"),
        *nested("before_validation", "a", "b", "c"), *nested("validation_ended", "c", "b", "a"),
        *nested("after_train", "c", "b", "a"), *nested("after_run", "c", "b", "a"),
    ]  # fmt: skip


def test_the_closing_method_is_only_called_if_the_opening_one_was(make_runner):
    note: list[str] = []
    hooks = [Stages(note, "a"), Stages(note, "b", "before_validation"), Stages(note, "c")]
    with pytest.raises(ValueError, match="before_validation"):
        make_runner(hooks=hooks, iterations=1, test=None).run()
    assert [m for m in note if "validation" in m] == [*nested("before_validation", "a", "b"), "validation_ended a"]


class AveragedWeights:
    """Swaps in other weights for validation, as an exponential moving average does."""

    @hookimpl
    def before_validation(self, run):
        self.kept = {name: value.clone() for name, value in run.model.state_dict().items()}
        for parameter in run.model.parameters():
            parameter.data.zero_()

    @hookimpl
    def validation_ended(self, run):
        run.model.load_state_dict(self.kept)


def test_a_signal_during_validation_saves_the_training_weights(make_runner):
    class Signal:
        @hookimpl
        def after_prediction(self, run, prediction):
            if prediction.meta["name"] == "image_0":  # a second one would not be caught
                os.kill(os.getpid(), signal.SIGTERM)

    runner = make_runner(hooks=[AveragedWeights(), Signal()], iterations=1, test=None)
    with pytest.raises(Interrupted):
        runner.run()
    saved = torch.load(runner.work_dir / "checkpoints" / "iter_0000001.pt", weights_only=True)
    assert saved["validation_pending"]
    assert all(value.abs().sum() > 0 for name, value in saved["state_dict"].items() if name.endswith("weight"))


def test_the_run_protocol_is_stable(make_runner):
    names = {
        "model", "optimizer", "engine", "train_set", "val_set", "test_set", "work_dir", "config", "seed", "iteration",
        "max_iterations", "mode", "metrics", "data_wait", "settled", "labels", "epoch", "is_main", "stopping", "stop",
        "emit", "save",
    }  # fmt: skip
    assert {name for name in dir(Run) if not name.startswith("_")} | set(Run.__annotations__) == names
    runner = make_runner()
    runner.train()
    assert all(hasattr(runner, name) for name in names)


def test_validate_alone_claims_and_releases_a_run_directory(make_runner):
    runner = make_runner(train=None, test=None, optimizer=None)
    assert runner.validate().keys() >= {"mIoU"}
    runner.close()
    assert (runner.work_dir / "log.txt").exists()


def test_runs_that_start_in_the_same_second_get_separate_directories(make_runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101_000000")
    runners = [make_runner(train=None, test=None, optimizer=None, work_dir=None) for _ in range(3)]
    for runner in runners:
        runner.validate()
    assert len({runner.work_dir for runner in runners}) == 3
    for runner in runners:
        runner.close()


def test_a_directory_in_use_is_refused_in_the_same_process_and_its_lock_stays(make_runner, tmp_path):
    first = make_runner(work_dir=tmp_path / "busy")
    first.validate()
    with pytest.raises(UsageError, match="in use by another run"):
        make_runner(work_dir=tmp_path / "busy").validate()
    code = f"import fcntl; fcntl.lockf(open({str(tmp_path / 'busy' / '.lock')!r}, 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
    first.close()
    make_runner(work_dir=tmp_path / "busy").validate()


LOCKING = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")
def test_a_directory_that_a_run_writes_to_is_refused(make_runner, tmp_path):
    (tmp_path / "busy").mkdir()
    lock = str(tmp_path / "busy" / ".lock")
    with subprocess.Popen([sys.executable, "-c", LOCKING, lock], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline()
            with pytest.raises(UsageError, match="in use by another run"):
                make_runner(work_dir=tmp_path / "busy").run()
        finally:
            other.kill()
    make_runner(work_dir=tmp_path / "busy", iterations=1).run()


def test_a_worker_that_dies_while_a_checkpoint_is_written_is_not_blamed_on_the_file(make_runner, monkeypatch):
    def write(state, file):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(torch, "save", write)
    with pytest.raises(DataError, match="a data-loader worker was killed"):
        make_runner(iterations=1, test=None).run()


def test_temporary_files_of_a_killed_run_are_removed(make_runner, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    half, other = folder / ".iter_0000010.pt.4711.tmp", folder / "notes.tmp"
    for file in (half, other):
        file.write_bytes(b"half")
    make_runner(iterations=1).run()
    assert (half.exists(), other.exists()) == (False, True)


def test_a_test_does_not_remove_temporary_files(make_runner, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    half = folder / ".iter_0000010.pt.4711.tmp"
    half.write_bytes(b"half")
    make_runner(train=None, val=None, optimizer=None, iterations=None, val_interval=None, batch_size=None).test()
    assert half.exists()


@pytest.mark.parametrize(
    "launcher", [("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"), ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")]
)
def test_a_restarted_launch_continues_where_it_stopped(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    folders = {name: tmp_path / "work_dirs" / "run" / name for name in ("1_mine", "2_of_another")}
    for launch, folder in zip(("a", "b"), folders.values()):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "iter_0000001.pt").touch()
        (folder / ".launch").write_text(launch)
    monkeypatch.setenv(launcher[0], "a")
    assert rundir.resume_point("run", None, False) == (None, None)
    monkeypatch.setenv(launcher[1], "1")
    mine, checkpoint = rundir.resume_point("run", None, False)
    assert mine.resolve() == folders["1_mine"]
    assert checkpoint.name == "iter_0000001.pt"
    monkeypatch.setenv(launcher[0], "never started")
    assert rundir.resume_point("run", None, False) == (None, None)
    with pytest.raises(CheckpointError):
        rundir.resume_point("other", None, True)


def test_a_plain_module_is_trained_tested_and_resumed_with_its_own_keys(make_runner, rectangles, tmp_path):
    def run(**options):
        torch.manual_seed(0)
        module = torch.nn.Conv2d(3, 3, 1, stride=2)
        return module, Runner(module, train=rectangles(), test=rectangles(), seed=3, work_dir=tmp_path / "run",
                              optimizer=torch.optim.SGD(module.parameters(), 0.1), **options)  # fmt: skip

    module, runner = run(iterations=3, hooks=[CheckpointHook(interval=2)])
    runner.run()
    _, resumed = run(iterations=3)
    resumed.resume(tmp_path / "run/checkpoints/iter_0000002.pt")
    resumed.run()
    assert module.state_dict().keys() == resumed.model.state_dict().keys() == {"weight", "bias"}
    assert torch.equal(weights(resumed), weights(runner))
    again = Predictor(torch.nn.Conv2d(3, 3, 1, stride=2), weights=tmp_path / "run")
    assert again.classes == ("ground", "red", "blue")
    assert torch.equal(again.model.module.weight, module.weight)


@pytest.mark.parametrize("form", ["out", "logits", "attribute"])
def test_a_plain_module_may_return_its_logits_as_other_libraries_do(rectangles, tmp_path, form):
    class Net(torch.nn.Conv2d):
        def forward(self, images):
            logits, features = super().forward(images), images
            named = {"out": {"out": logits, "aux": features}, "logits": {"loss": None, "logits": logits}}
            return named.get(form) or SimpleNamespace(logits=logits)

    module = Net(3, 3, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    Runner(module, train=rectangles(), test=rectangles(), optimizer=optimizer, iterations=1, work_dir=tmp_path).run()
    assert Predictor(module, classes=["a", "b", "c"])(np.zeros((24, 32, 3), np.uint8)).labels.shape == (24, 32)


def test_a_plain_module_without_logits_of_the_classes_is_refused(rectangles, tmp_path):
    module = torch.nn.Conv2d(3, 5, 1)
    runner = Runner(module, train=rectangles(), optimizer=torch.optim.SGD(module.parameters(), 0.1), iterations=1,
                    work_dir=tmp_path / "run")  # fmt: skip
    with pytest.raises(UsageError, match=r"Conv2d returns \(1, 5, 24, 32\), not logits \(N, 3 classes, h, w\)"):
        runner.run()
    module.forward = lambda images: {"main": images}
    with pytest.raises(UsageError, match="Conv2d returns dict without 'out', not logits"):
        runner.run()
    with pytest.raises(UsageError, match="no data set"):
        Runner(module)


def test_targets_are_made_of_class_ids():
    masks = torch.zeros(2, 4, 5, dtype=torch.uint8)
    images = torch.zeros(2, 3, 4, 5)
    assert Targets.of(masks, images)["seg"].dtype == torch.int64
    assert Targets.of(given := Targets({"seg": masks}), images) is given
    other = [(masks[:, None], r"Tensor \(2, 1, 4, 5\)"), (masks[:, :2], r"\(2, 4, 5\) .*Tensor \(2, 2, 5\)")]
    for wrong, said in [*other, (masks.float(), "float32"), ([1], "list")]:
        with pytest.raises(UsageError, match=f"class ids .*{said}"):
            Targets.of(wrong, images)


def test_without_the_package_for_torch_s_data_sets_its_name_is_said():
    with Catalog().active(), pytest.raises(NotInstalledError, match="pip install segplug-datasets"):
        Runner(torch.nn.Conv2d(3, 3, 1), train=[(0, 1)])
