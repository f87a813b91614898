from __future__ import annotations

from torch import nn

from segplug_my_model.parameter_groups import MyModelParameterGroups


def test_the_backbone_is_slower_and_biases_do_not_decay() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 4)})
    groups = MyModelParameterGroups(backbone_mult=0.5)(model, lr=0.1, weight_decay=0.01)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (0.05, 0.01),
        (0.05, 0.0),
        (0.1, 0.01),
        (0.1, 0.0),
    ]
