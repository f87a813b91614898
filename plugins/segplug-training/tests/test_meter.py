"""`MeterHook`: its records contain the learning rates of all parameter groups."""

from __future__ import annotations

from fractions import Fraction

import torch

from segkernel.schedules import RunSchedules
from segplug_training import meter
from segplug_training.meter import MeterHook, learning_rates, watts
from segplug_training.schedules import PolyLR


def groups(*rates: float) -> list[dict[str, object]]:
    return [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]


def test_one_rate_is_lr_alone() -> None:
    assert learning_rates(torch.optim.SGD(groups(0.1, 0.1), lr=0.1)) == {"lr": 0.1}


def test_factors_are_those_of_the_groups_whatever_the_optimizer_was_made_with() -> None:
    optimizer = torch.optim.SGD(groups(0.01, 0.1), lr=0.5)  # as in a resumed run whose rate was not taken
    assert learning_rates(optimizer) == {"lr": 0.01, "lr.x10": 0.1}


def test_rates_of_groups_are_named_by_their_factor_whatever_a_schedule_makes_of_them() -> None:
    optimizer = torch.optim.SGD(groups(0.01, 0.1, 0.01, 0.001), lr=0.01)
    schedules = RunSchedules([PolyLR(power=1.0)], optimizer, 11, Fraction(1))
    assert learning_rates(optimizer) == {"lr": 0.01, "lr.x10": 0.1, "lr.x0.1": 0.001}
    for iteration in range(1, 6):
        schedules.step(iteration)
    assert {name: round(rate, 9) for name, rate in learning_rates(optimizer).items()} == {
        "lr": 0.005,
        "lr.x10": 0.05,
        "lr.x0.1": 0.0005,
    }


def test_the_power_of_a_gpu_is_in_the_records(make_runner, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 250_600, raising=False)
    assert watts(torch.device("cuda", 1)) == 250.6
    assert watts(torch.device("cpu")) is None
    records = []
    runner = make_runner(MeterHook(interval=3), validate=False)
    runner.emit = records.append
    runner.train()
    monkeypatch.setattr(meter, "watts", lambda device: 250.6)
    runner = make_runner(MeterHook(interval=3), validate=False, folder="measured")
    runner.emit = records.append
    runner.train()
    assert [record.get("watts") for record in records] == [None, None, 251, 251]
    assert records[0].keys() | {"watts"} == records[2].keys()
