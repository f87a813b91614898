from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from segplug_backbones import GeneralizedAttention


def code(distance, dim):
    """The code of a distance in pixels."""
    angles = [distance / 1000 ** (4 * i / dim) for i in range(dim // 4)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def slow(layer, x, kinds):
    """The definition, pixel by pixel, for one image and queries of every pixel."""
    heads, dim, stride = layer.num_heads, layer.head_dim, layer.kv_stride
    _, channels, height, width = x.shape
    keys = list(product(range(0, height, stride), range(0, width, stride)))
    found = torch.zeros(1, heads * dim, height, width)
    for head, y, z in product(range(heads), range(height), range(width)):
        part = slice(head * dim, (head + 1) * dim)
        scores = []
        for i, j in keys:
            right = layer.appr_geom_fc_x(code(z - j, channels))[part] if kinds[1] or kinds[3] else 0
            down = layer.appr_geom_fc_y(code(y - i, channels))[part] if kinds[1] or kinds[3] else 0
            place = (right + down) / math.sqrt(2)
            query = layer.query_conv.weight[part, :, 0, 0] @ x[0, :, y, z] if kinds[0] or kinds[1] else 0
            key = layer.key_conv.weight[part, :, 0, 0] @ x[0, :, i, j] if kinds[0] or kinds[2] else 0
            total = torch.zeros(())
            total = total + (query @ key if kinds[0] else 0) + (query @ place if kinds[1] else 0)
            total = total + (layer.appr_bias[part] @ key if kinds[2] else 0)
            scores.append(total + (layer.geom_bias[part] @ place if kinds[3] else 0))
        weights = torch.stack(scores).softmax(0)
        values = torch.stack([layer.value_conv.weight[part, :, 0, 0] @ x[0, :, i, j] for i, j in keys])
        found[0, part, y, z] = weights @ values
    return x + layer.gamma * layer.proj_conv(found)


@pytest.mark.parametrize("kinds", ["1111", "1000", "0100", "0010", "0001", "0101", "1010"])
@torch.no_grad()
def test_it_is_its_definition(kinds):
    torch.manual_seed(0)
    layer = GeneralizedAttention(8, num_heads=2, attention_type=kinds)
    layer.gamma.fill_(0.7)
    x = torch.randn(1, 8, 5, 4)
    torch.testing.assert_close(layer(x), slow(layer, x, [kind == "1" for kind in kinds]))


@torch.no_grad()
def test_it_starts_as_the_identity_and_takes_strides():
    x = torch.randn(2, 12, 7, 6)
    assert torch.equal(GeneralizedAttention(12)(x), x)
    layer = GeneralizedAttention(12, q_stride=2, kv_stride=1)
    layer.gamma.fill_(1.0)
    assert layer(x).shape == x.shape


@torch.no_grad()
def test_a_range_shuts_out_what_is_far():
    torch.manual_seed(0)
    layer = GeneralizedAttention(8, spatial_range=1, num_heads=2, kv_stride=1)
    layer.gamma.fill_(1.0)
    x = torch.randn(1, 8, 9, 9)
    changed = x.clone()
    changed[..., 8] += 1.0
    difference = (layer(changed) - layer(x)).abs().amax((0, 1, 2))
    assert (difference > 1e-6).nonzero().flatten().tolist() == [6, 7, 8]


def test_the_table_of_old_checkpoints_is_left_out():
    layer = GeneralizedAttention(8, spatial_range=1, num_heads=2)
    state = {**layer.state_dict(), "local_constraint_map": torch.zeros(1)}
    layer.load_state_dict(state, strict=True)


def test_every_parameter_learns():
    layer = GeneralizedAttention(8, num_heads=2)
    torch.nn.init.ones_(layer.gamma)
    layer(torch.randn(2, 8, 6, 6)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
