from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segkernel.errors import ConfigError
from segkernel.nn import (
    DeformConv2d,
    ModulatedDeformConv2d,
    build_conv,
    deform_conv2d,
)


def bilinear(plane, y, x):
    """Return the interpolated value at a point of a plane (H, W), zero outside."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += float(plane[row, column]) * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def slow_deform_conv(x, offset, weight, stride, padding, dilation, groups, mask):
    """The definition, point by point."""
    batch, outputs, (kh, kw) = len(x), len(weight), weight.shape[2:]
    deform_groups = offset.shape[1] // (2 * kh * kw)
    out = torch.zeros(batch, outputs, *offset.shape[2:])
    for n, d, row, column in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        for c, i, j in torch.cartesian_prod(*map(torch.arange, weight.shape[1:])).tolist():
            channel = d // (outputs // groups) * weight.shape[1] + c
            point = channel // (x.shape[1] // deform_groups) * kh * kw + i * kw + j
            y = row * stride - padding + i * dilation + offset[n, 2 * point, row, column].item()
            z = column * stride - padding + j * dilation + offset[n, 2 * point + 1, row, column].item()
            factor = 1.0 if mask is None else mask[n, point, row, column].item()
            out[n, d, row, column] += weight[d, c, i, j] * bilinear(x[n, channel], y, z) * factor
    return out


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "deform_groups"), [(1, 1, 1, 1, 1), (2, 2, 2, 2, 1), (1, 1, 1, 1, 2)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution_equals_its_definition(stride, padding, dilation, groups, deform_groups, masked):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 4 // groups, 3, 3)
    height, width = ((side + 2 * padding - 2 * dilation - 1) // stride + 1 for side in (6, 5))
    offset = 2 * torch.randn(2, 18 * deform_groups, height, width)
    mask = torch.rand(2, 9 * deform_groups, height, width) if masked else None
    ours = deform_conv2d(x, offset, weight, None, stride, padding, dilation, groups, mask)
    torch.testing.assert_close(ours, slow_deform_conv(x, offset, weight, stride, padding, dilation, groups, mask))


@pytest.mark.parametrize(("kind", "factor"), [("DCN", 1.0), ("DCNv2", 0.5)])
def test_a_deformable_convolution_starts_as_an_ordinary_one(kind, factor):
    torch.manual_seed(0)
    conv = build_conv({"type": kind, "deform_groups": 2}, 4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=True)
    x = torch.randn(2, 4, 17, 12)
    expected = factor * F.conv2d(x, conv.weight, None, 2, 2, 2, 2)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-4)


def test_keys_and_gradients_of_deformable_convolutions():
    for cls, channels in ((DeformConv2d, 18), (ModulatedDeformConv2d, 27)):
        conv = cls(3, 5, 3, padding=1)
        shapes = {key: tuple(value.shape) for key, value in conv.state_dict().items()}
        of_offset = {"conv_offset.weight": (channels, 3, 3, 3), "conv_offset.bias": (channels,)}
        assert shapes == {"weight": (5, 3, 3, 3), **of_offset}
        nn.init.normal_(conv.conv_offset.bias)
        conv(torch.randn(2, 3, 8, 8)).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in conv.parameters())


def test_deformable_convolution_runs_in_half_precision_and_exports_for_any_size():
    conv = DeformConv2d(3, 4, 3, padding=1)
    assert conv.bfloat16()(torch.randn(1, 3, 8, 8).bfloat16()).dtype is torch.bfloat16
    conv.float()
    sides = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
    program = torch.export.export(conv, (torch.randn(2, 3, 8, 9),), dynamic_shapes=(sides,))
    x = torch.randn(3, 3, 11, 7)
    torch.testing.assert_close(program.module()(x), conv(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"deform_groups": 2}, "not divisible by 2 groups"), ({"padding_mode": "reflect"}, "only zeros is supported")],
)
def test_wrong_arguments_of_a_deformable_convolution_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        DeformConv2d(3, 4, 3, **options)
