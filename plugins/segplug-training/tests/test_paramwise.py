"""Parameter groups follow their rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel import build
from segkernel.errors import ConfigError
from segkernel.interfaces.model import Backbone
from segplug_training.paramwise import Paramwise


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.shared = self.conv
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def rates(**rules):
    model = Parts()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = Paramwise(**rules)(model, lr=1.0, weight_decay=0.1)
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_without_rules_there_is_one_group_of_what_can_be_trained():
    assert set(rates().values()) == {(1.0, 0.1)}
    assert "frozen" not in rates()
    assert len(Paramwise()(Parts(), 1.0)) == 1


def test_the_longest_matching_key_wins_over_everything_else():
    found = rates(custom_keys={"head": {"lr_mult": 10}, "head.bias": {"decay_mult": 0}}, bias_lr_mult=2)
    assert found["head.weight"] == (10.0, 0.1)
    assert found["head.bias"] == (1.0, 0.0)
    assert found["conv.bias"] == (2.0, 0.1)


def test_rules_by_kind_of_parameter():
    rules = {"norm_decay_mult": 0, "bias_decay_mult": 0.5, "dwconv_decay_mult": 0.25, "flat_decay_mult": 0.75}
    found = {name: decay for name, (_, decay) in rates(**rules).items()}
    expected = {"norm.weight": 0, "norm.bias": 0, "conv.bias": 0.05, "conv.weight": 0.1, "depthwise.weight": 0.025,
                "scale": 0.075}  # fmt: skip
    for name, decay in expected.items():
        assert found[name] == pytest.approx(decay), name


class Deep(Backbone):
    """Two layers, after an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.second, self.last_norm = (nn.Linear(2, 2) for _ in range(4))

    def layer_of(self, parameter, num_layers, stage_wise=False):
        layers = ["embed", "first", "second"]
        name = parameter.split(".")[0]
        return layers.index(name) if name in layers else None


def layer_rates(backbone, **options):
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = Paramwise(layer_decay={"rate": 0.5, **options})(model, 1.0, 0.1)
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_layers_learn_the_slower_the_earlier_they_come():
    found = layer_rates(Deep(), num_layers=2)
    weights = ["backbone.embed", "backbone.first", "backbone.second", "backbone.last_norm", "head"]
    assert [found[f"{name}.weight"] for name in weights] == [(r, 0.1) for r in (0.125, 0.25, 0.5, 1.0, 1.0)]
    assert found["backbone.embed.bias"] == (0.125, 0.0)
    assert found["head.bias"] == (1.0, 0.0)


def test_flat_parameters_decay_on_request():
    assert layer_rates(Deep(), num_layers=2, decay_flat=True)["backbone.embed.bias"] == (0.125, 0.1)


def test_groups_of_layer_decay_tell_the_backbone_from_the_head():
    model = nn.ModuleDict({"backbone": Deep(), "head": nn.Linear(2, 2)})
    groups = Paramwise(layer_decay={"rate": 1.0, "num_layers": 2, "decay_flat": True})(model, 1.0, 0.1)
    assert [(group["backbone"], len(group["params"])) for group in groups] == [(True, 8), (False, 2)]
    assert "backbone" not in Paramwise()(model, 1.0)[0]


def test_layer_decay_needs_a_number_that_covers_all_layers():
    with pytest.raises(ConfigError, match="more than 1 layers"):
        layer_rates(Deep(), num_layers=1)


def test_layer_decay_is_refused_by_a_backbone_without_numbered_layers(monkeypatch):
    monkeypatch.delattr(Deep, "layer_of")
    with pytest.raises(ConfigError, match="Deep has no numbered stages"):
        layer_rates(Deep(), num_layers=2, stage_wise=True)


def test_a_config_need_not_name_it_and_its_factors_are_checked():
    made = build("parameter_groups", {"custom_keys": {"head": {"lr_mult": 10}}, "layer_decay": None})
    assert isinstance(made, Paramwise)
    with pytest.raises(ConfigError, match=r"optim.paramwise.custom_keys.head.lr_mul: unknown .*\n.* 'lr_mult'"):
        build("parameter_groups", {"custom_keys": {"head": {"lr_mul": 10}}}, path="optim.paramwise")


def test_an_unused_rate_is_reported_with_a_similar_name(caplog: pytest.LogCaptureFixture) -> None:
    rates(custom_keys={"haed": {"lr_mult": 10}, "norm": {"lr_mult": 2}, "gone": {"decay_mult": 0}})
    (record,) = caplog.records  # published configs leave decays of layers that a variant lacks
    assert record.getMessage() == ("optim.paramwise.custom_keys: haed matches no parameter name; did you mean 'head'?")


def test_rates_of_which_no_parameter_has_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"haed matches no parameter name\n.*'head'"):
        rates(custom_keys={"haed": {"lr_mult": 10}, "gone": {"decay_mult": 0}})
