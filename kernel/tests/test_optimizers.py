"""Optimisers of a config: torch's by name, with a rate that may grow with the batch."""

from __future__ import annotations

import pytest
import torch

from segkernel import build
from segkernel.catalog import _torch_optimizers
from segkernel.config.sections import OptimSection
from segkernel.experiment import _optimizer
from segkernel.testing.toys import ToySegmentor, toy_batch

OTHERS = {
    "LBFGS": "asks for the loss several times in a step",
    "SparseAdam": "takes sparse gradients alone",
    "Muon": "takes matrices alone",
    "Optimizer": "is their base",
}


def optimizer_of(model, **options):
    optim = build(OptimSection, options)
    return _optimizer(model, optim.optimizer, optim)


@pytest.mark.parametrize("name", sorted(set(_torch_optimizers()) - OTHERS.keys()))
def test_each_of_torch_s_optimisers_makes_a_step(name):
    model, batch = ToySegmentor(), toy_batch(0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = optimizer_of(model, optimizer={"type": name, "lr": 0.1})
    batch.targets["seg"] = batch.targets["seg"].long()
    sum(model.loss(batch.images.float() / 255, batch.targets).values()).backward()
    optimizer.step()
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("batch_size", "base", "wanted"), [(8, None, 0.3), (8, 16, 0.15), (48, 16, 0.9), (6, 6, 0.3)])
@pytest.mark.parametrize("paramwise", [None, lambda model, lr, decay: [{"params": model.parameters(), "lr": lr}]])
def test_the_rate_is_scaled_with_the_batch(batch_size, base, wanted, paramwise):
    options = {"batch_size": batch_size, "base_batch_size": base, "paramwise": paramwise}
    optimizer = optimizer_of(ToySegmentor(), optimizer={"type": "SGD", "lr": 0.3}, **options)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-15)
