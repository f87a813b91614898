"""Blocks that several backbones share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.nn import ConvModule
from segplug_backbones.inverted_residual import InvertedResidual, InvertedResidualV3
from segplug_backbones.resnest import RSoftmax
from segplug_backbones.squeeze import SELayer, make_divisible


def test_squeeze_and_excitation():
    layer = SELayer(16, ratio=4)
    assert layer.conv1.conv.out_channels == 8
    assert SELayer(16, ratio=4, divisor=1).conv1.conv.out_channels == 4
    assert SELayer(16, squeeze_channels=3, act_cfg={"type": "Sigmoid"}).conv1.conv.out_channels == 3
    for conv in (layer.conv1, layer.conv2):
        nn.init.zeros_(conv.conv.weight)
        nn.init.zeros_(conv.conv.bias)
    x = torch.randn(2, 16, 3, 3)
    torch.testing.assert_close(layer(x), x / 2)


def test_the_attention_of_splits_is_a_softmax_over_them():
    x = torch.randn(2, 12, 1, 1)
    out = RSoftmax(radix=2, groups=3)(x)
    # In: (groups, radix, 2 channels); out: (radix, groups, 2 channels).
    torch.testing.assert_close(out.view(2, 2, 6), x.view(2, 3, 2, 2).softmax(2).transpose(1, 2).reshape(2, 2, 6))
    torch.testing.assert_close(RSoftmax(radix=1, groups=3)(x), x.sigmoid())


def test_inverted_residuals():
    plain, wide = InvertedResidual(8, 8, 1, expand_ratio=1), InvertedResidual(8, 12, 2, expand_ratio=6, dilation=2)
    assert (len(plain.conv), len(wide.conv)) == (2, 3)
    assert (plain.use_residual, wide.use_residual) == (True, False)
    assert wide(torch.rand(2, 8, 9, 9)).shape == (2, 12, 5, 5)
    assert isinstance(wide.conv[0], ConvModule)


def test_inverted_residuals_with_squeeze_and_excitation():
    x = torch.rand(2, 8, 9, 9)
    block = InvertedResidualV3(8, 8, 24, 5, dilation=2, se_cfg={"channels": 24, "ratio": 4}, drop_path_rate=0.5)
    assert {key.split(".")[0] for key in block.state_dict()} == {"expand_conv", "depthwise_conv", "se", "linear_conv"}
    assert block(x).shape == x.shape
    narrow = InvertedResidualV3(8, 4, 8, stride=2)
    assert narrow.expand_conv is None
    assert narrow.se is None
    assert narrow(x).shape == (2, 4, 5, 5)


@pytest.mark.parametrize(
    ("value", "divisor", "result"), [(33, 8, 32), (36, 8, 40), (3, 8, 8), (20, 16, 32), (24, 8, 24)]
)
def test_make_divisible(value: int, divisor: int, result: int) -> None:
    assert make_divisible(value, divisor) == result
