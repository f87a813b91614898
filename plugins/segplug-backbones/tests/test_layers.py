"""Layers that only backbones of this package use, under the names of configs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segkernel.nn import build_activation, build_conv, build_upsample
from segplug_backbones.layers import AdaptivePaddingConv2d


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (65, 97)])
def test_adaptive_padding_divides_a_size_exactly(size, stride):
    conv = build_conv({"type": "Conv2dAdaptivePadding"}, 1, 1, 5, stride=stride, padding=0, dilation=2)
    assert isinstance(conv, AdaptivePaddingConv2d)
    assert conv(torch.rand(1, 1, *size)).shape[2:] == tuple(-(-side // stride) for side in size)


def test_adaptive_padding_puts_the_odd_pixel_below():
    conv = AdaptivePaddingConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    assert conv(torch.arange(16.0).view(1, 1, 4, 4)).flatten().tolist() == [45.0, 39.0, 66.0, 50.0]


def test_pixel_shuffle_turns_channels_into_pixels() -> None:
    cfg = {"type": "pixel_shuffle", "scale_factor": 2, "upsample_kernel": 3}
    layer = build_upsample(cfg, in_channels=4, out_channels=6)
    assert layer(torch.rand(1, 4, 5, 7)).shape == (1, 6, 10, 14)
    assert layer.state_dict().keys() == {"upsample_conv.weight", "upsample_conv.bias"}


def test_hard_sigmoid_is_a_clamped_line() -> None:
    found = build_activation({"type": "HSigmoid"})(torch.tensor([-4.0, 0.0, 1.5, 4.0]))
    assert found.tolist() == [0, 0.5, 0.75, 1]
