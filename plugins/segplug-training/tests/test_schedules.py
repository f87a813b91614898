"""Schedules give the learning rates that MMSegmentation's give, iteration by iteration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segkernel import build
from segkernel.errors import UsageError
from segplug_training.schedules import CosineAnnealingLR, OneCycleLR

CASES = json.loads((Path(__file__).parent / "golden" / "lr_schedules.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: "+".join(spec["type"] for spec in case["schedulers"]))
def test_rates_are_the_reference_s(case: dict[str, Any]) -> None:
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


def test_an_unknown_way_to_anneal_is_refused() -> None:
    with pytest.raises(UsageError, match="'cos' or 'linear'"):
        OneCycleLR(eta_max=0.1, anneal_strategy="cosine")


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize(
    "spec",
    [
        {"type": "PolyLR", "power": 0.9},
        {"type": "LinearLR"},
        {"type": "ConstantLR"},
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
