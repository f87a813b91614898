"""Five optimiser steps in train mode, held against the reference's: rates, losses, and weights after the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import golden_weights
import torch
from golden import Report, model_config
from torch import nn

from segkernel.build import build
from segkernel.interfaces.model import Segmentor
from segkernel.nn import DropPath
from segkernel.optim import parameter_groups
from segkernel.sample import Targets

RATES, LOSSES, WEIGHTS = 1e-6, (1e-5, 1e-4, 1e-3, 1e-2, 1e-2), 5e-2
"""Tolerances: relative; of max(1, loss), step by step; of the largest of the sampled values.

Rounding grows tenfold a step in models that normalise over the two pixels of a pooled batch; the first step is exact.
"""


def check(case: Mapping[str, Any]) -> Report:
    """Train as the case says and compare."""
    report = Report()
    model = build("segmentors", model_config(case["model"]))
    model.load_state_dict(golden_weights.fill(model.state_dict()), strict=True)
    without_dropout(model.train())
    optimizer = make_optimizer(model, case["optim_wrapper"])
    schedules = [build("schedules", dict(spec)) for spec in case["param_scheduler"]]
    images, targets = _batch(case)
    for iteration, expected in enumerate(case["iters"]):
        for schedule in schedules:
            schedule.step(optimizer, iteration)
        _compare_rates(optimizer, expected["lr"], report)
        torch.manual_seed(0)
        losses = model.loss(images, targets)
        for name, value in expected["losses"].items():
            allowed = (
                LOSSES[iteration] * max(1.0, abs(value)) * (100 if "acc" in name else 1)
            )  # a pixel more or less is right
            report.compare("losses", f"{name} of step {iteration}", abs(losses[name].item() - value), allowed)
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if "loss" in name).backward()  # type: ignore[union-attr]
        clip(model, case["optim_wrapper"].get("clip_grad"))
        optimizer.step()
    compare_final(model, case["final"], report)
    return report


def without_dropout(model: nn.Module) -> None:
    """Set every probability of dropping something to 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0


def make_optimizer(model: Segmentor, wrapper: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Build the optimiser of a reference's ``optim_wrapper``."""
    options = {key: value for key, value in wrapper["optimizer"].items() if key != "type"}
    groups = parameter_groups(model, options["lr"], options.get("weight_decay", 0.0), wrapper.get("paramwise_cfg"))
    optimizer = getattr(torch.optim, wrapper["optimizer"]["type"])(groups, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def clip(model: Segmentor, options: Mapping[str, Any] | None) -> None:
    """Clip the gradients."""
    if options:
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["max_norm"], options.get("norm_type", 2))


def compare_final(model: Segmentor, final: Mapping[str, Any], report: Report) -> None:
    """Compare weights after the last step."""
    floats = (value for value in model.state_dict().values() if value.is_floating_point())
    norm = sum(value.double().square().sum().item() for value in floats) ** 0.5
    report.compare("weights", "norm of the state", abs(norm - final["param_l2"]) / final["param_l2"], WEIGHTS)
    state = model.state_dict()
    for name, values in {**final["sample"], **final["running_mean"]}.items():
        ours, expected = state[name].flatten()[: len(values)], torch.tensor(values)
        report.compare("weights", name, ((ours - expected).abs().max() / expected.abs().max()).item(), WEIGHTS)


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
