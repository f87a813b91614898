"""Deformable convolution in plain torch: each kernel point samples the map at a learnt offset.

Deformable Convolutional Networks, Dai et al., 2017 (https://arxiv.org/abs/1703.06211); version 2: Deformable ConvNets
v2, Zhu et al., 2019 (https://arxiv.org/abs/1811.11168). State-dict keys are MMCV's: ``weight``, ``bias``,
``conv_offset``.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from segkernel.errors import ConfigError, Problem

Size = int | tuple[int, int]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve ``x`` (N, C, H, W) with ``weight`` (D, C / groups, kh, kw) to (N, D, h, w).

    Args:
        x: Input; samples outside of it are zero.
        offset: (N, G * kh * kw * 2, h, w): the offset (down, right) of each kernel point in pixels, for each of G
            deform groups.
        weight: Kernel.
        bias: (D,).
        stride: In pixels.
        padding: In pixels on each side.
        dilation: In pixels.
        groups: Groups of channels of the convolution.
        mask: (N, G * kh * kw, h, w): modulation of each sample, version 2.
    """
    kernel = (weight.shape[2], weight.shape[3])
    points, size = math.prod(kernel), offset.shape[2:]
    deform_groups = offset.shape[1] // (2 * points)
    grid = _sampling_grid(offset, kernel, _pair(stride), _pair(padding), _pair(dilation), (x.shape[2], x.shape[3]))
    inputs = x.unflatten(1, (deform_groups, -1)).flatten(0, 1)
    samples = F.grid_sample(inputs.to(grid.dtype), grid, align_corners=False).to(x.dtype)
    samples = samples.unflatten(0, (-1, deform_groups))  # (N, G, C / G, points, h * w)
    if mask is not None:
        samples = samples * mask.flatten(2).unflatten(1, (deform_groups, 1, points))
    # The rest is an ordinary convolution: im2col, then one matrix product per group.
    columns = samples.flatten(1, 2).unflatten(1, (groups, -1)).flatten(2, 3)  # (N, groups, C / groups * points, h * w)
    out = weight.flatten(1).unflatten(0, (groups, -1)) @ columns
    out = out.flatten(1, 2).unflatten(2, size)
    return out if bias is None else out + bias[:, None, None]


class DeformConv2d(nn.Module):
    """``DCN``, version 1: (N, in_channels, H, W) -> (N, out_channels, h, w); the offsets start at zero.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: In pixels.
        stride: In pixels.
        padding: In pixels on each side.
        dilation: In pixels.
        groups: Groups of channels of the convolution.
        deform_groups: Groups of input channels, each with its own offsets.
        bias: Whether there is a bias.
        padding_mode: Must be ``zeros``.
        im2col_step: Has no effect; for configs written for MMCV's compiled operator.

    Raises:
        ConfigError: ``in_channels`` is not divisible by ``deform_groups``, or the padding mode is not supported.
    """

    offset_channels: ClassVar[int] = 2
    """Output channels of ``conv_offset`` for each kernel point."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        im2col_step: int = 32,
    ) -> None:
        super().__init__()
        if in_channels % deform_groups:
            message = f"{in_channels} channels are not divisible by {deform_groups} groups"
            raise ConfigError(Problem(message, "deform_groups"))
        if padding_mode != "zeros":
            raise ConfigError(Problem(f"{padding_mode!r}: only zeros is supported", "padding_mode"))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        kernel = _pair(kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        channels = deform_groups * self.offset_channels * math.prod(kernel)
        self.conv_offset = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation)
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.conv_offset(x))

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, mask
        )


class ModulatedDeformConv2d(DeformConv2d):
    """``DCNv2``: each sample is also multiplied with a modulation in (0, 1), one half at the start."""

    offset_channels = 3

    def forward(self, x: Tensor) -> Tensor:
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        return self._convolve(x, torch.cat([first, second], dim=1), mask.sigmoid())


def _sampling_grid(
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Return the sampling position of each kernel point, (N * G, points, h * w, 2).

    Positions are (x, y) as ``F.grid_sample`` takes them, with the edges of the map at -1 and 1.
    """
    # Half precision cannot distinguish neighbouring pixels of a large map.
    offset = offset.float() if offset.dtype in (torch.float16, torch.bfloat16) else offset
    offset = offset.unflatten(1, (-1, *kernel, 2)).flatten(0, 1)  # (N * G, kh, kw, 2, h, w)
    rows, columns = (
        torch.arange(n, device=offset.device)[:, None] * dilation[i]
        - padding[i]
        + torch.arange(offset.shape[4 + i], device=offset.device) * stride[i]
        for i, n in enumerate(kernel)
    )  # (kh, h) and (kw, w)
    y = offset[:, :, :, 0] + rows[:, None, :, None]
    x = offset[:, :, :, 1] + columns[:, None]
    grid = torch.stack([(2 * x + 1) / size[1] - 1, (2 * y + 1) / size[0] - 1], dim=-1)
    return grid.flatten(3, 4).flatten(1, 2)
