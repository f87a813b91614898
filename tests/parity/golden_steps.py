"""Comparison of five optimiser steps in train mode with the reference: learning rates, losses, final weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import golden_weights
import torch
from golden import Report, model_config
from golden_names import our_paramwise
from torch import nn

from segkernel import build
from segkernel.interfaces.model import Segmentor
from segkernel.nn import DropPath
from segkernel.sample import Targets
from segplug_training.paramwise import Paramwise

RATES, LOSSES, WEIGHTS = 1e-6, (1e-5, 1e-4, 1e-3, 1e-2, 1e-2), 5e-2
"""Tolerances: of rates, relative; of losses per step, relative to max(1, loss); of weights, relative to the largest."""
NOISE, SEEDS, SPREAD = 1e-5, (1, 2), 5.0
"""If a difference exceeds its tolerance after the first step: relative noise on the initial weights, its seeds,
and how many times the effect of the noise is allowed.

Rounding errors grow a hundredfold per step in models that normalise over the two pixels of a pooled batch, or that
select pixels by a threshold.
"""
Results = dict[str, torch.Tensor]
"""Results of a run of five steps: ``2 decode.loss_ce`` is of the third step, ``weights KEY`` of the end."""


def check(case: Mapping[str, Any]) -> Report:
    """Train as described by the case and compare."""
    report = Report()
    ours = train(case, report)
    shares = compare(ours, expected(case))
    limits: dict[str, float] = {}
    if max(shares.values()) > 1:
        for seed in SEEDS:
            for name, share in compare(train(case, Report(), seed), ours).items():
                limits[_stage(name)] = max(limits.get(_stage(name), 1.0), SPREAD * share)
        limits.pop("0")
    for name, share in shares.items():
        kind = "weights" if _stage(name) == "weights" else "losses"
        report.compare(kind, name, share, limits.get(_stage(name), 1.0))
    return report


def train(case: Mapping[str, Any], report: Report, noise_seed: int | None = None) -> Results:
    """Run the steps and compare learning rates; with a ``noise_seed``, perturb the initial weights."""
    model = build("segmentors", model_config(case["model"]))
    model.load_state_dict(golden_weights.fill(model.state_dict()), strict=True)
    if noise_seed is not None:
        add_noise(model, noise_seed)
    without_dropout(model.train())
    optimizer = make_optimizer(model, case["optim_wrapper"])
    schedules = [build("schedules", dict(spec)) for spec in case["param_scheduler"]]
    for schedule in schedules:
        schedule.bind(len(case["iters"]))
    images, targets = _batch(case)
    results: Results = {}
    for iteration, facts in enumerate(case["iters"]):
        for schedule in schedules:
            schedule.step(optimizer, iteration)
        _compare_rates(optimizer, facts["lr"], report)
        torch.manual_seed(0)
        losses = model.loss(images, targets)
        results |= {f"{iteration} {name}": value.detach() for name, value in losses.items()}
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if "loss" in name).backward()  # type: ignore[union-attr]
        clip(model, case["optim_wrapper"].get("clip_grad"))
        optimizer.step()
    return results | final(model, case)


def expected(case: Mapping[str, Any]) -> Results:
    """Return the results of the reference."""
    steps = enumerate(case["iters"])
    results = {f"{i} {name}": torch.tensor(value) for i, facts in steps for name, value in facts["losses"].items()}
    results |= {f"weights {name}": torch.tensor(values) for name, values in _sampled(case).items()}
    return results | {"weights": torch.tensor(case["final"]["param_l2"])}


def final(model: Segmentor, case: Mapping[str, Any]) -> Results:
    """Return the sampled weights, and the norm of all."""
    state = model.state_dict()
    squares = sum(value.double().square().sum() for value in state.values() if value.is_floating_point())
    results = {f"weights {name}": state[name].flatten()[: len(values)] for name, values in _sampled(case).items()}
    return results | {"weights": torch.as_tensor(squares).sqrt()}


def compare(ours: Results, others: Results) -> dict[str, float]:
    """Return the differences as fractions of their tolerances."""
    return {name: float((ours[name] - other).abs().max()) / _allowed(name, other) for name, other in others.items()}


def add_noise(model: Segmentor, seed: int) -> None:
    """Multiply the weights by 1 plus Gaussian noise of standard deviation `NOISE`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + NOISE * torch.randn(parameter.shape, generator=generator))


def without_dropout(model: nn.Module) -> None:
    """Set all dropout and drop-path probabilities to 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0


def make_optimizer(model: Segmentor, wrapper: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Build the optimiser of a reference's ``optim_wrapper``."""
    options = {key: value for key, value in wrapper["optimizer"].items() if key != "type"}
    paramwise = our_paramwise(wrapper.get("paramwise_cfg")) or {}
    groups = Paramwise(**paramwise)(model, options["lr"], options.get("weight_decay", 0.0))
    optimizer = getattr(torch.optim, wrapper["optimizer"]["type"])(groups, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def clip(model: Segmentor, options: Mapping[str, Any] | None) -> None:
    """Clip the gradients."""
    if options:
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_norm"], options.get("norm_type", 2))


def _stage(name: str) -> str:
    return name.split(" ")[0]


def _allowed(name: str, value: torch.Tensor) -> float:
    largest = float(value.abs().max())
    if _stage(name) == "weights":
        return WEIGHTS * largest
    pixels = 100 if "acc" in name else 1  # a single pixel changes it
    return LOSSES[int(_stage(name))] * max(1.0, largest) * pixels


def _sampled(case: Mapping[str, Any]) -> dict[str, list[float]]:
    return {**case["final"]["sample"], **case["final"]["running_mean"]}


def _batch(case: Mapping[str, Any]) -> tuple[torch.Tensor, Targets]:
    batch, _, height, width = case["input_shape"]
    band = case["labels"] == "band"
    labels = golden_weights.labels(case["num_classes"], batch, height, width, band=band)
    targets = Targets({"seg": labels, "edge": golden_weights.edges(batch, height, width)})
    return golden_weights.inputs(tuple(case["input_shape"])), targets


def _compare_rates(optimizer: torch.optim.Optimizer, expected: list[float], report: Report) -> None:
    ours = sorted({group["lr"] for group in optimizer.param_groups})
    report.require(len(ours) == len(set(expected)), f"{len(ours)} learning rates, not {len(set(expected))}")
    for rate, value in zip(ours, sorted(set(expected))):
        report.compare("rates", "learning rate", abs(rate - value) / value, RATES)
