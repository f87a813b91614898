"""Checks of optimisers and of learning-rate schedules."""

from __future__ import annotations

import copy
import math
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from segkernel.schedules import RunSchedules, Schedule
from segkernel.testing.core import Subject, check, require

ITERATIONS = 12


@check("optimizers", name="descends")
def descends(subject: Subject) -> None:
    """It is a torch optimiser, and its steps decrease a quadratic at the group's rate."""
    weights, optimizer = _optimizer(subject)
    require(isinstance(optimizer, torch.optim.Optimizer), "it does not build a torch.optim.Optimizer")
    before = float(weights.detach().square().sum())
    for _ in range(ITERATIONS):
        _step(weights, optimizer)
    after = float(weights.detach().square().sum())
    require(math.isfinite(after) and after < before, f"the square went from {before:.3f} to {after:.3f}")
    optimizer.param_groups[0]["lr"] = 0.0
    _step(weights, optimizer)
    require(float(weights.detach().square().sum()) == after, "it moves at a rate of 0: use the group's rate")


@check("optimizers", name="resume")
def optimizer_resume(subject: Subject) -> None:
    """A second instance that loads the state continues as the first does."""
    weights, first = _optimizer(subject)
    for _ in range(3):
        _step(weights, first)
    other, second = _optimizer(subject)
    other.data.copy_(weights.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(3):
        _step(weights, first)
        _step(other, second)
    require(torch.equal(weights, other), "after loading the state the steps differ")


@check("parameter_groups", name="complete")
def complete(subject: Subject) -> None:
    """The groups contain every trainable parameter once, and no frozen one."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model[2].requires_grad_(False)
    groups = subject.build()(model, lr=0.1, weight_decay=0.01)
    found = sorted(id(parameter) for group in groups for parameter in group["params"])
    expected = sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    require(found == expected, f"{len(found)} parameters in the groups, {len(expected)} are trained")
    torch.optim.SGD(groups, lr=0.1)


@check("schedules", name="rates")
def rates(subject: Subject) -> None:
    """During a run the rate is finite, not negative, and changes; two runs have the same rates."""
    seen = _rates(subject)
    require(all(math.isfinite(rate) and rate >= 0 for rate in seen), f"rates of a run: {seen}")
    require(len(set(seen)) > 1, f"the rate stays {seen[0]} during {ITERATIONS} iterations")
    require(seen == _rates(subject), f"another run has other rates than {seen}")


def _optimizer(subject: Subject) -> tuple[nn.Parameter, Any]:
    weights = nn.Parameter(torch.linspace(-1.0, 2.0, 12).reshape(3, 4))
    return weights, subject.target([weights], **{"lr": 0.01, **subject.arguments})


def _step(weights: nn.Parameter, optimizer: Any) -> None:
    optimizer.zero_grad()
    weights.square().sum().backward()
    optimizer.step()


def _rates(subject: Subject) -> list[float]:
    """Return the rate of each iteration under a `Schedule` or one of torch's."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    group = optimizer.param_groups[0]
    of_torch = issubclass(subject.target, LRScheduler)
    schedule = subject.target(optimizer, **subject.arguments) if of_torch else subject.build()
    require(isinstance(schedule, Schedule | LRScheduler), "neither segkernel's Schedule nor torch's LRScheduler")
    schedules, seen = RunSchedules([schedule], optimizer, ITERATIONS, Fraction(1)), [float(group["lr"])]
    for iteration in range(1, ITERATIONS):
        optimizer.step()
        schedules.step(iteration)
        seen.append(float(group["lr"]))
    return seen
