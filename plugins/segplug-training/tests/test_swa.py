"""`SWAHook` averages weights and recomputes the batch-norm statistics of the average."""

from __future__ import annotations

import copy
from itertools import islice

import pytest
import torch
from torch import nn

from segkernel import hookimpl
from segkernel.checkpoint import load
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.hookspecs import Priority
from segkernel.testing.toys import ToySegmentor
from segplug_training.swa import SWAHook


class Normalised(ToySegmentor):
    """The toy with a batch norm behind its backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.backbone.stages[0].append(self.norm)


class Watch:
    """Notes weights after each iteration and the whole model in each validation."""

    priority = Priority.VERY_LOW

    def __init__(self) -> None:
        self.trained, self.validated = [], {}

    @hookimpl
    def after_train_iteration(self, run):
        self.trained.append(copy.deepcopy(run.model.state_dict()))

    @hookimpl
    def after_validation(self, run):
        self.validated[run.iteration] = copy.deepcopy(run.model)


def test_the_average_has_separate_statistics_from_training(make_runner):
    plain, watch = Watch(), Watch()
    torch.manual_seed(0)
    model = Normalised()
    make_runner(plain, model=copy.deepcopy(model), folder="plain").train()
    hooks = SWAHook(begin_iter=3, bn_batches=3), watch, CheckpointHook()
    runner = make_runner(*hooks, model=copy.deepcopy(model))
    runner.train()
    for ours, theirs in zip(watch.trained, plain.trained, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), "training is as without it"
    seen = watch.validated[6]
    weights = torch.stack([state["backbone.stages.0.0.weight"] for state in watch.trained[2:]])
    torch.testing.assert_close(seen.backbone.stages[0][0].weight, weights.mean(0))
    means = []
    for batch in islice(runner.train_set.train_batches(), 3):
        images, _ = runner.preprocessor(batch)
        means.append(seen.backbone.stages[0][:2](images).mean((0, 2, 3)))
    torch.testing.assert_close(seen.norm.running_mean, torch.stack(means).mean(0).detach())
    assert not torch.allclose(seen.norm.running_mean, watch.trained[-1]["norm.running_mean"])
    saved = load(runner.work_dir / "checkpoints" / "iter_0000006.pt")
    assert torch.equal(saved["state_dict"]["norm.running_mean"], seen.norm.running_mean)
    assert torch.equal(saved["source_state_dict"]["norm.running_mean"], watch.trained[-1]["norm.running_mean"])
    assert seen.norm.momentum == model.norm.momentum
    assert not seen.norm.training


@pytest.mark.parametrize("options", [{"bn_batches": 0}, {}])
def test_a_resumed_run_ends_with_the_same_average(make_runner, options):
    torch.manual_seed(0)
    model = Normalised()
    whole = make_runner(SWAHook(**options), CheckpointHook(), model=copy.deepcopy(model), folder="whole")
    whole.train()
    again = make_runner(SWAHook(**options), model=copy.deepcopy(model), folder="again")
    again.resume(whole.work_dir / "checkpoints" / "iter_0000004.pt")
    again.train()
    first, second = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
