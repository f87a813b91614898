"""Learning-rate schedules in a run; the schedules themselves are segplug-training's."""

from __future__ import annotations

import pytest
import torch

from segkernel.errors import UsageError
from segkernel.schedules import Schedule


class Halving(Schedule):
    """Half the rate at every iteration but the first."""

    def rate(self, lr, base, i):
        return lr / 2 if i else lr


def test_schedules_are_applied_in_turn_between_begin_and_end(make_runner, tiny_model):
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    lr = [Halving(end=3), Halving(begin=4)]
    runner = make_runner(model=model, optimizer=optimizer, lr=lr, val=None, test=None, iterations=6)
    assert (lr[1].begin, lr[1].end, lr[1].length) == (4, 6, 1)
    runner.train()
    assert runner.optimizer.param_groups[0]["lr"] == 1 / 8  # after iterations 1, 2 and 5


def test_a_schedule_that_ends_before_it_begins_is_refused():
    with pytest.raises(UsageError, match="before it begins"):
        Halving(begin=10, end=10)


def test_torch_s_own_schedulers_are_stepped_and_resumed(make_runner, tiny_model):
    def runner(**more):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.1)
        return make_runner(model=model, optimizer=optimizer, lr=[scheduler], val=None, test=None, **more)

    first = runner(iterations=7)
    first.train()
    first.close()
    assert first.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    again = runner(iterations=12)
    again.resume(first.work_dir / "checkpoints" / "iter_0000007.pt")
    again.train()
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


class Falling(Schedule):
    """Fall to 0 in a straight line, each rate from the one before."""

    def rate(self, lr, base, i):
        return lr * (1 - 1 / (self.length - i + 1)) if i else lr


def test_an_extended_run_has_the_rates_of_a_run_of_that_length(make_runner, tiny_model):
    def runner(iterations, lr=1.0):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        return make_runner(model=model, optimizer=optimizer, lr=[Falling()], val=None, test=None, iterations=iterations)

    first = runner(4)
    first.train()
    first.close()
    path = first.work_dir / "checkpoints" / "iter_0000004.pt"
    assert first.optimizer.param_groups[0]["lr"] == 0
    same, longer = runner(4), runner(9, lr=0.5)
    same.resume(path)
    same.close()
    assert same.optimizer.param_groups[0]["lr"] == 0
    longer.resume(path)
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0.5)  # of 1.0, at 4 of 0 to 8
    assert longer.optimizer.param_groups[0]["initial_lr"] == 1.0
