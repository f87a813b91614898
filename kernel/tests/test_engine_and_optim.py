"""`LocalEngine` steps as a plain loop does; parameter groups follow their rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.data import Loader
from segkernel.engine import LocalEngine
from segkernel.errors import ConfigError, UsageError
from segkernel.inference import Preprocessor
from segkernel.interfaces.model import Backbone
from segkernel.optim import parameter_groups


def steps(model, engine, batches, accumulate=1, **options):
    preprocessor = Preprocessor().train()
    engine.prepare_model(model.train(), preprocessor)
    engine.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    return [engine.train_step(batches[i : i + accumulate]) for i in range(0, len(batches), accumulate)]


@pytest.fixture
def batches(rectangles):
    loader = iter(Loader(rectangles(), micro_batch=2).train_batches())
    return [next(loader) for _ in range(4)]


def test_a_step_is_a_plain_loop_s_step(tiny_model, batches):
    ours, plain = tiny_model(dropout=0.0), tiny_model(dropout=0.0).train()
    losses = steps(ours, LocalEngine("cpu"), batches)
    optimizer, preprocessor = torch.optim.SGD(plain.parameters(), lr=0.1), Preprocessor().train()
    for batch, found in zip(batches, losses):
        optimizer.zero_grad()
        loss = plain.loss(*preprocessor(batch))["decode.loss_ce"]
        loss.backward()
        optimizer.step()
        assert torch.equal(found["loss"], loss.detach())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), plain.state_dict().values()))


def test_accumulated_gradients_are_the_mean_of_the_micro_batches(tiny_model, batches):
    ours, plain = tiny_model(dropout=0.0), tiny_model(dropout=0.0).train()
    steps(ours, LocalEngine("cpu"), batches, accumulate=4)
    preprocessor = Preprocessor().train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    (sum(plain.loss(*preprocessor(batch))["decode.loss_ce"] for batch in batches) / 4).backward()
    optimizer.step()
    for a, b in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b)


def test_clipping_limits_the_gradient_and_reports_its_norm(tiny_model, batches):
    model = tiny_model(dropout=0.0)
    (losses,) = steps(model, LocalEngine("cpu"), batches[:1], clip_grad={"max_norm": 1e-3})
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert losses["grad_norm"] > 1e-3
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "options", [{"amp": True}, {"channels_last": True}, {"amp": "bfloat16", "channels_last": True}]
)
def test_half_precision_and_channels_last_stay_near(tiny_model, batches, options):
    exact = steps(tiny_model(dropout=0.0), LocalEngine("cpu"), batches)
    near = steps(tiny_model(dropout=0.0), LocalEngine("cpu", **options), batches)
    for a, b in zip(exact, near):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=0.03)


@pytest.mark.parametrize("supported", [True, False])
def test_a_processor_without_bfloat16_stays_in_float32(monkeypatch, caplog, supported):
    monkeypatch.setattr("segkernel.engine._computes_in_bfloat16", lambda: supported)
    assert LocalEngine("cpu", amp=True).amp is (torch.bfloat16 if supported else None)
    assert ("no bfloat16" in caplog.text) is not supported


def test_a_loss_scale_that_is_given_stays(tiny_model, batches):
    engine = LocalEngine("cpu", amp="float16", loss_scale=512.0)
    steps(tiny_model(), engine, batches)
    assert engine.scaler.get_scale() == 512.0
    assert LocalEngine("cpu", amp="float16").scaler.get_scale() > 512.0


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="warp"):
        LocalEngine("warp")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", [False, "float16", "bfloat16"])
def test_cuda_lowers_the_loss(tiny_model, batches, amp):
    losses = steps(tiny_model(), LocalEngine("cuda", amp=amp), batches * 5)
    assert losses[-1]["loss"] < losses[0]["loss"]


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


def rates(paramwise):
    model = Parts()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, paramwise=paramwise)
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_without_rules_there_is_one_group_of_what_can_be_trained():
    assert set(rates(None).values()) == {(1.0, 0.1)}
    assert "frozen" not in rates(None)
    assert len(parameter_groups(Parts(), 1.0)) == 1


def test_the_longest_matching_key_wins_over_everything_else():
    found = rates({"custom_keys": {"head": {"lr_mult": 10}, "head.bias": {"decay_mult": 0}}, "bias_lr_mult": 2})
    assert found["head.weight"] == (10.0, 0.1)
    assert found["head.bias"] == (1.0, 0.0)
    assert found["conv.bias"] == (2.0, 0.1)


def test_rules_by_kind_of_parameter():
    rules = {"norm_decay_mult": 0, "bias_decay_mult": 0.5, "dwconv_decay_mult": 0.25, "flat_decay_mult": 0.75}
    found = {name: decay for name, (_, decay) in rates(rules).items()}
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
    groups = parameter_groups(model, 1.0, 0.1, {"layer_decay": {"rate": 0.5, **options}})
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_layers_learn_the_slower_the_earlier_they_come():
    found = layer_rates(Deep(), num_layers=2)
    weights = ["backbone.embed", "backbone.first", "backbone.second", "backbone.last_norm", "head"]
    assert [found[f"{name}.weight"] for name in weights] == [(r, 0.1) for r in (0.125, 0.25, 0.5, 1.0, 1.0)]
    assert found["backbone.embed.bias"] == (0.125, 0.0)
    assert found["head.bias"] == (1.0, 0.0)


def test_layer_decay_needs_a_number_that_covers_all_layers():
    with pytest.raises(ConfigError, match="more than 1 layers"):
        layer_rates(Deep(), num_layers=1)


def test_layer_decay_is_refused_by_a_backbone_that_knows_no_layers(monkeypatch):
    monkeypatch.delattr(Deep, "layer_of")
    with pytest.raises(ConfigError, match="Deep has no stages"):
        layer_rates(Deep(), num_layers=2, stage_wise=True)
