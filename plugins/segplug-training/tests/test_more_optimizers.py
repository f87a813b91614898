"""`Lamb` and `Muon` are those of pytorch-optimizer, for models with convolutions, or name the missing package."""

from __future__ import annotations

import sys

import pytest
import torch

from segkernel.testing.toys import ToySegmentor
from segplug_training.more_optimizers import Lamb, Muon, PackageMissingError
from segplug_training.paramwise import Paramwise


@pytest.mark.parametrize("kind", [Lamb, Muon])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(PackageMissingError, match=r"needs pytorch-optimizer: .*\n.*pip install 'segplug-training\[opt"):
        kind([torch.nn.Parameter(torch.zeros(2, 2))])


def test_muon_leaves_vectors_to_adamw_at_the_rate_of_their_group():
    pytest.importorskip("pytorch_optimizer")
    model = ToySegmentor()
    groups = Paramwise(custom_keys={"decode_head": {"lr_mult": 10.0}})(model, 0.01, 0.1)
    optimizer = Muon(groups, lr=0.01, weight_decay=0.1)
    found = [
        (group["use_muon"], group["lr"], {each.ndim for each in group["params"]}) for group in optimizer.param_groups
    ]
    assert found == [(True, 0.01, {4}), (False, 0.01, {1}), (True, 0.1, {4}), (False, 0.1, {1})]
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.01, 0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    assert not any(map(torch.equal, before, model.parameters()))
