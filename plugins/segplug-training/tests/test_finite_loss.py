"""`FiniteLossHook` ends a run whose loss is not finite before a checkpoint is saved."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segkernel import hookimpl
from segkernel.errors import TrainingError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.testing.toys import toy_batch
from segplug_training.finite_loss import FiniteLossHook


class Spoil:
    """Makes the weights nan after an iteration."""

    @hookimpl
    def after_train_iteration(self, run):
        if run.iteration == 2:
            for parameter in run.model.parameters():
                parameter.data.fill_(float("nan"))


def test_every_run_has_it_and_ends_with_the_names_of_the_batch(make_runner):
    runner = make_runner(Spoil(), CheckpointHook(interval=5), validate=False)
    with pytest.raises(TrainingError, match=r"nan at iteration 3; nothing was saved(.|\n)*image_"):
        runner.train()
    assert not list((runner.work_dir / "checkpoints").glob("*.pt"))


def test_the_last_good_checkpoint_is_named_and_no_bad_one_written(make_runner):
    runner = make_runner(Spoil(), CheckpointHook(interval=1), validate=False)
    with pytest.raises(TrainingError, match=r"the last good checkpoint is .*iter_0000002\.pt"):
        runner.train()
    names = sorted(path.name for path in (runner.work_dir / "checkpoints").glob("*.pt"))
    assert names == ["iter_0000001.pt", "iter_0000002.pt"]


@pytest.mark.parametrize("moment", ["before_validation", "save_checkpoint", "after_train"])
def test_on_a_device_losses_are_looked_at_once_in_many_and_before_they_matter(tmp_path, moment):
    engine = SimpleNamespace(device=torch.device("cuda"), rank=0, world_size=1)
    run = SimpleNamespace(engine=engine, iteration=0, work_dir=tmp_path, train_set=None, epoch=0.0, seed=0, config={})
    hook = FiniteLossHook(interval=4)
    for run.iteration in (1, 2, 3):
        hook.after_train_iteration(run, [toy_batch(0)], {"loss": torch.tensor(float("inf"))})
    with pytest.raises(TrainingError, match="inf at iteration 1"):
        getattr(hook, moment)(run)
    for run.iteration in (4, 5, 6):
        hook.after_train_iteration(run, [toy_batch(0)], {"loss": torch.tensor(1.0)})
    run.iteration = 7
    with pytest.raises(TrainingError, match="nan at iteration 7"):
        hook.after_train_iteration(run, [toy_batch(0)], {"loss": torch.tensor(float("nan"))})


class Far:
    """Puts a sample of one iteration far from all others."""

    @hookimpl
    def before_train_iteration(self, run, batches):
        batches[0].images.fill_(0 if run.iteration == 14 else 100)
        run.model.decode_head.conv_seg.bias.data[0] = 40.0 if run.iteration == 14 else 0.0


def test_a_spike_is_reported_and_its_batch_stored(make_runner, caplog):
    runner = make_runner(Far(), FiniteLossHook(spike=3.0), iterations=20, validate=False)
    runner.train()
    assert "at iteration 15, usually" in caplog.text
    assert [path.name for path in (runner.work_dir / "replay").iterdir()] == ["iter_0000015_rank0.json"]


def test_spikes_are_not_detected_by_default(make_runner):
    runner = make_runner(Far(), iterations=20, validate=False)
    runner.train()
    assert not (runner.work_dir / "replay").exists()
