"""`FreezeHook` freezes parts of the model for the given interval."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from segkernel import hookimpl
from segkernel.errors import UsageError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.testing.toys import ToySegmentor
from segplug_training.freeze import FreezeHook


class Changes:
    """Notes which part changed in each iteration, and whether it was in training mode."""

    def __init__(self, part="backbone"):
        self.part, self.changed, self.training = part, [], []

    @hookimpl
    def before_train_iteration(self, run):
        self.before = [parameter.detach().clone() for parameter in run.model.get_submodule(self.part).parameters()]

    @hookimpl
    def after_train_iteration(self, run):
        module = run.model.get_submodule(self.part)
        self.changed.append(not all(map(torch.equal, self.before, module.parameters())))
        self.training.append(module.training)


@pytest.mark.parametrize(
    ("arguments", "frozen"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"end": 2}, [0, 1]),
        ({"begin": 3}, [3, 4, 5]),
        ({"begin": 1, "end": 3}, [1, 2]),
        ({"end": 1, "by_epoch": True}, [0, 1, 2, 3]),
    ],
)
def test_a_part_is_frozen_between_begin_and_end(make_runner, arguments, frozen):
    model, changes, others = ToySegmentor(), Changes(), Changes("decode_head")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)  # decays what has a gradient alone
    make_runner(FreezeHook(["backbone"], **arguments), changes, others, model=model, optimizer=optimizer).train()
    wanted = [iteration not in frozen for iteration in range(6)]
    assert changes.changed == changes.training == wanted
    assert all(others.changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_continues_after_a_resume(make_runner):
    first = make_runner(FreezeHook(["backbone"], end=4), CheckpointHook(), folder="first")
    first.train()
    again = make_runner(FreezeHook(["backbone"], end=4), changes := Changes(), folder="again")
    again.resume(first.work_dir / "checkpoints" / "iter_0000002.pt")
    again.train()
    assert changes.changed == [False, False, True, True]


def test_what_the_config_froze_stays_frozen(make_runner):
    model = ToySegmentor()
    model.backbone.requires_grad_(False)
    make_runner(FreezeHook(["backbone"], end=2), model=model).train()
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())


def test_a_missing_part_is_reported_with_similar_names(make_runner):
    with pytest.raises(UsageError, match="no module 'backbon'; did you mean 'backbone'"):
        make_runner(FreezeHook(["backbon"])).train()


def test_an_engine_of_several_processes_that_cannot_freeze_is_named():
    run = SimpleNamespace(model=ToySegmentor(), engine=SimpleNamespace(world_size=2), max_iterations=1)
    with pytest.raises(UsageError, match="SimpleNamespace cannot freeze parts on several processes; use DDPEngine"):
        FreezeHook(["backbone"]).before_train(run)
    run.engine.may_freeze = True
    FreezeHook(["backbone"]).before_train(run)
