"""Schedules give the learning rates that MMSegmentation's give, iteration by iteration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from segkernel import schedules
from segkernel.errors import UsageError

CASES = json.loads((Path(__file__).parent / "golden" / "lr_schedules.json").read_text())


def make(arguments: dict) -> schedules.Schedule:
    kind = getattr(schedules, arguments["type"])
    return kind(**{key: value for key, value in arguments.items() if key != "type"})


@pytest.mark.parametrize("case", CASES, ids=lambda c: "+".join(s["type"] for s in c["schedulers"]))
def test_rates_are_the_reference_s(case):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr} for lr in case["base_lr"]]
    optimizer = torch.optim.SGD(groups)
    chain = [make(arguments) for arguments in case["schedulers"]]
    wanted = {row[0]: row[1:] for row in case["rows"]}
    for each in chain:
        each.bind(max(wanted) + 1)
    for iteration in range(max(wanted) + 1):
        for each in chain:
            each.step(optimizer, iteration)
        if iteration in wanted:
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates == pytest.approx(wanted[iteration], rel=1e-6, abs=1e-12), f"iteration {iteration}"


def test_a_schedule_that_ends_before_it_begins_is_refused():
    with pytest.raises(UsageError, match="before it begins"):
        schedules.PolyLR(begin=10, end=10)


def test_torch_s_own_schedulers_are_stepped_and_resumed(make_runner, tiny_model):
    def runner(**more):
        model = tiny_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.1)
        return make_runner(model=model, optimizer=optimizer, lr=[scheduler], val=None, test=None, **more)

    first = runner(iterations=7)
    first.train()
    assert first.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    again = runner(iterations=12)
    again.resume(first.work_dir / "checkpoints" / "iter_0000007.pt")
    again.train()
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
