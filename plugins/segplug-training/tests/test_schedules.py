"""Schedules return the same learning rates as MMSegmentation's, iteration by iteration."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segkernel import build
from segkernel.errors import UsageError
from segkernel.hooks.checkpoint import CheckpointHook
from segkernel.schedules import RunSchedules
from segplug_training.momentum import LinearMomentum, StepMomentum
from segplug_training.plateau import ReduceOnPlateauLR
from segplug_training.schedules import (
    CosineAnnealingLR,
    CosineRestartLR,
    CyclicLR,
    LinearLR,
    OneCycleLR,
    PolyLR,
    TwoStageWarmupPolyLR,
)

CASES = json.loads((Path(__file__).parent / "golden" / "lr_schedules.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: "+".join(spec["type"] for spec in case["schedulers"]))
def test_rates_equal_the_reference(case: dict[str, Any]) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr} for lr in case["base_lr"]]
    optimizer = torch.optim.SGD(groups)
    chain = [build("schedules", spec) for spec in case["schedulers"]]
    wanted = {row[0]: row[1:] for row in case["rows"]}
    for schedule in chain:
        schedule.bind(max(wanted) + 1)
    for iteration in range(max(wanted) + 1):
        for schedule in chain:
            schedule.step(optimizer, iteration)
        if iteration in wanted:
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == pytest.approx(wanted[iteration], rel=1e-6, abs=1e-12), f"iteration {iteration}"


def test_a_floor_is_given_once() -> None:
    with pytest.raises(UsageError, match="not both"):
        CosineAnnealingLR(eta_min=0.1, eta_min_ratio=0.1)


def test_the_backbone_warms_up_after_the_head() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "backbone": lr < 1} for lr in (1.0, 0.5)]
    optimizer = torch.optim.SGD(groups)
    schedules = RunSchedules([TwoStageWarmupPolyLR(warmup=(2, 4), power=1.0)], optimizer, 10, Fraction(1))
    seen = []
    for iteration in range(10):
        schedules.step(iteration) if iteration else None
        seen.append([group["lr"] for group in optimizer.param_groups])
    head = [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    backbone = [0, 0, 0, 1 / 8, 2 / 8, 3 / 8, 1 / 2, 3 / 8, 2 / 8, 1 / 8]
    assert seen == [pytest.approx(pair) for pair in zip(head, backbone, strict=True)]
    schedules.resume(7)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([3 / 8, 3 / 8])


def test_without_a_backbone_there_are_no_two_stages() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UsageError, match=r"no parameter group is a backbone's: set optim.paramwise.layer_decay"):
        RunSchedules([TwoStageWarmupPolyLR()], optimizer, 10, Fraction(1))


def test_an_unknown_annealing_strategy_is_refused() -> None:
    with pytest.raises(UsageError, match="'cos' or 'linear'"):
        OneCycleLR(eta_max=0.1, anneal_strategy="cosine")


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "spec",
    [
        {"type": "PolyLR", "power": 0.9},
        {"type": "LinearLR"},
        {"type": "ConstantLR"},
        {"type": "PolyLRRatio", "eta_min_ratio": 0.1},
        {"type": "StepLR", "step_size": 2},
        {"type": "ExponentialLR", "gamma": 0.9},
        {"type": "CosineRestartLR", "periods": [2, 3]},
        {"type": "CyclicLR", "base_lr": 0.01, "max_lr": 0.5, "step_size_up": 3},
        {"type": "MultiStepLR", "milestones": [1, 4]},
        {"type": "CosineAnnealingLR"},
        {"type": "CosineAnnealingLR", "T_max": 1},
        *({"type": "OneCycleLR", "eta_max": 0.5, "pct_start": share} for share in (0, 0.1, 0.3, 0.5, 1)),
        {"type": "OneCycleLR", "eta_max": 0.5, "pct_start": 0.5, "three_phase": True},
    ],
)
def test_every_length_of_a_run_has_its_rates(spec: dict[str, Any], iterations: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    schedule = build("schedules", spec)
    schedule.bind(iterations)
    for iteration in range(iterations):
        schedule.step(optimizer, iteration)
        assert 0 <= optimizer.param_groups[0]["lr"] <= 0.5


def test_one_cycle_peaks_at_the_rate_of_each_group_unless_the_peak_is_given() -> None:
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr} for lr in (0.1, 0.01)]
    for peak, expected in ((None, [0.1, 0.01]), (0.5, [0.5, 0.5])):
        optimizer = torch.optim.SGD(parameters)
        schedule = OneCycleLR(peak, total_steps=10)
        schedule.bind(10)
        schedule.step(optimizer, 2)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)


def sgd(lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **options)


def rates(schedules: list[Any], iterations: int, epoch: Fraction = Fraction(1), resume_at: int | None = None) -> list:
    """Return the rate of each iteration; with ``resume_at`` those of a run that was resumed there."""
    optimizer, seen = sgd(), []
    run = RunSchedules(schedules, optimizer, iterations, epoch)
    for iteration in range(iterations):
        if iteration == resume_at:
            run.resume(iteration)
        elif iteration:
            run.step(iteration)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


@pytest.mark.parametrize("epoch", [Fraction(3), Fraction(7, 2)])
def test_by_epoch_a_rate_holds_from_the_iteration_that_begins_one(epoch: Fraction) -> None:
    spec = [(LinearLR, {"start_factor": 0.1, "end": 2}), (PolyLR, {"power": 0.9, "begin": 2})]
    by_iteration = rates([kind(**arguments) for kind, arguments in spec], 6)
    by_epoch = rates([kind(**arguments, by_epoch=True) for kind, arguments in spec], int(6 * epoch), epoch)
    assert by_epoch == [by_iteration[int(iteration // epoch)] for iteration in range(int(6 * epoch))]


def test_an_iteration_may_pass_several_epochs() -> None:
    whole = rates([PolyLR(power=0.9)], 12)
    halved = rates([PolyLR(power=0.9, by_epoch=True)], 6, Fraction(1, 2))
    assert halved == pytest.approx(whole[::2])


@pytest.mark.parametrize("resume_at", [1, 5, 9])
def test_a_resumed_run_has_the_rates_of_a_whole_one(resume_at: int) -> None:
    def chain() -> list[Any]:
        return [LinearLR(end=3), CosineRestartLR([2, 5], begin=3), PolyLR(by_epoch=True, begin=1)]

    assert rates(chain(), 10, Fraction(5, 2), resume_at) == rates(chain(), 10, Fraction(5, 2))


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cycles_equal_those_of_torch(mode: Any) -> None:
    optimizer, wanted = sgd(), []
    arguments = {"base_lr": 0.01, "max_lr": 0.5, "step_size_up": 3, "step_size_down": 4, "mode": mode, "gamma": 0.9}
    torchs = torch.optim.lr_scheduler.CyclicLR(optimizer, cycle_momentum=False, **arguments)
    for _ in range(20):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    assert rates([CyclicLR(**arguments)], 20) == pytest.approx(wanted)


def test_cycles_need_a_weight_each() -> None:
    with pytest.raises(UsageError, match="3 periods have 2 restart_weights"):
        CosineRestartLR([1, 2, 3], [1.0, 0.5])


@pytest.mark.parametrize("optimizer", [sgd(momentum=0.8), torch.optim.AdamW([torch.zeros(1)], betas=(0.8, 0.99))])
def test_momentum_follows_its_schedules_and_nothing_else_does(optimizer: torch.optim.Optimizer) -> None:
    (group,), lr = optimizer.param_groups, optimizer.param_groups[0]["lr"]
    schedules = [LinearMomentum(start_factor=0.5, end=5), StepMomentum(4, 0.5, begin=5)]
    run = RunSchedules(schedules, optimizer, 11, Fraction(1))

    def momentum() -> float:
        return group["betas"][0] if "betas" in group else group["momentum"]

    seen = [momentum()]
    for iteration in range(1, 11):
        run.step(iteration)
        seen.append(momentum())
    assert seen == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.4, 0.4])
    run.resume(2)
    assert momentum() == pytest.approx(0.6)
    assert group["lr"] == lr
    assert group.get("betas", (0, 0.99))[1] == 0.99


def test_an_optimiser_without_momentum_is_refused() -> None:
    optimizer = torch.optim.Adagrad([torch.zeros(1)])
    with pytest.raises(UsageError, match="no momentum"):
        RunSchedules([LinearMomentum()], optimizer, 10, Fraction(1))


CURVE = [1.0, 0.9, 0.91, 0.92, 0.93, 0.85, 0.86, 0.87, 0.88, 0.89, 0.9, 0.91, 0.5, 0.6, 0.7, 0.8]


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 1},
        {"patience": 2, "cooldown": 2},
        {"patience": 1, "threshold": 0.2, "threshold_rule": "rel"},
        {"patience": 1, "threshold": 0.2, "threshold_rule": "abs"},
        {"patience": 0, "min_value": 0.02},
    ],
)
def test_plateaus_equal_those_of_torch(options: dict[str, Any]) -> None:
    optimizer = sgd()
    named = {"threshold_mode": options.get("threshold_rule", "rel"), "min_lr": options.get("min_value", 0.0)}
    others = {name: value for name, value in options.items() if name not in ("threshold_rule", "min_value")}
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, **named, **others)
    wanted = []
    for value in CURVE:
        torchs.step(value)
        wanted.append(optimizer.param_groups[0]["lr"])
    ours, mine = ReduceOnPlateauLR(factor=0.5, **options), sgd()
    run, seen = RunSchedules([ours], mine, len(CURVE) + 1, Fraction(1)), []
    for iteration, value in enumerate(CURVE):
        ours.after_validation(SimpleNamespace(iteration=iteration), {"loss": value})
        run.step(iteration + 1)
        seen.append(mine.param_groups[0]["lr"])
    assert seen == pytest.approx(wanted)


def test_a_run_tells_a_plateau_schedule_of_validations_and_resumes_it(make_runner: Any) -> None:
    def runner(folder: str) -> Any:
        lr = [ReduceOnPlateauLR("loss", factor=0.5, patience=0, threshold=10.0), PolyLR(begin=4)]
        return make_runner(CheckpointHook(interval=3), lr=lr, folder=folder)

    whole, again = runner("whole"), runner("again")
    whole.train()
    again.resume(whole.work_dir / "checkpoints" / "iter_0000003.pt")
    assert again.optimizer.param_groups[0]["lr"] == 0.01
    again.train()
    assert again.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"] < 0.01
