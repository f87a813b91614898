from __future__ import annotations

import pytest
import torch

import segplug_backbones
from segkernel.errors import ConfigError
from segplug_backbones import MixVisionTransformer, mit_b0


def small(**more):
    return MixVisionTransformer(embed_dims=8, num_layers=(1, 2, 1, 1), num_heads=(1, 2, 5, 8), **more)


@pytest.mark.parametrize(
    ("name", "millions"), [("b0", 3.32), ("b1", 13.15), ("b2", 24.20), ("b3", 44.07), ("b4", 60.84), ("b5", 81.44)]
)
def test_variants_have_the_published_number_of_parameters(name, millions):
    with torch.device("meta"):
        backbone = getattr(segplug_backbones, f"mit_{name}")()
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_keys():
    shapes = {key: tuple(value.shape) for key, value in mit_b0().state_dict().items()}
    assert shapes["layers.0.0.projection.weight"] == (32, 3, 7, 7)
    assert shapes["layers.0.1.0.attn.attn.in_proj_weight"] == (96, 32)
    assert shapes["layers.0.1.1.attn.sr.weight"] == (32, 32, 8, 8)
    assert shapes["layers.1.1.0.ffn.layers.1.weight"] == (256, 1, 3, 3)
    assert shapes["layers.2.1.0.ffn.layers.4.bias"] == (160,)
    assert shapes["layers.3.2.weight"] == (256,)
    assert "layers.3.1.0.attn.sr.weight" not in shapes


def test_drop_path_grows_from_zero_to_its_rate():
    backbone = small(drop_path_rate=0.2)
    rates = [layer.ffn.dropout_layer.drop_prob for _, layers, _ in backbone.layers for layer in layers]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert all(isinstance(rate, float) for rate in rates)


def test_dropout_reaches_attention_and_feed_forward():
    layer = small(drop_rate=0.3, attn_drop_rate=0.4).layers[0][1][0]
    assert (layer.attn.attn.dropout, layer.attn.proj_drop.p, layer.ffn.layers[3].p) == (0.4, 0.3, 0.3)


def test_projections_without_bias():
    keys = small(qkv_bias=False).state_dict().keys()
    assert "layers.0.1.0.attn.attn.in_proj_bias" not in keys


def test_recomputing_changes_no_gradient():
    plain, frugal = small().train(), small(with_cp=True).train()
    frugal.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for backbone in (plain, frugal):
        sum(m.square().mean() for m in backbone(images)).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), frugal.parameters()))


def test_recomputing_repeats_the_same_random_drops():
    torch.manual_seed(0)
    backbone = small(with_cp=True, drop_rate=0.5, drop_path_rate=0.5).train()
    twin = small(drop_rate=0.5, drop_path_rate=0.5).train()
    twin.load_state_dict(backbone.state_dict())
    gradients = []
    for model in (backbone, twin):
        torch.manual_seed(1)
        sum(m.square().mean() for m in model(torch.ones(2, 3, 64, 64))).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*gradients))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": (1, 2)}, r"num_layers: \[1, 2\] needs 4 numbers"),
        ({"strides": (4, 2, 2)}, "strides"),
        ({"out_indices": (4,)}, "must name maps 0 to 3"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MixVisionTransformer(**arguments)
