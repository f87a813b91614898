"""LR-ASPP: deep features gated by a coarse pooling of themselves, and merged with shallow ones.

Searching for MobileNetV3, Howard et al., 2019 (https://arxiv.org/abs/1905.02244), section 6.4 and figure 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, resize
from segplug_heads.heads.sizes import at_least


class WindowPool(nn.Module):
    """Average pooling with a large window and step: (N, C, H, W) -> (N, C, h, w), h and w at least 2.

    A side shorter than the window is averaged as a whole.

    Args:
        window: Side of the window in pixels of the feature map.
        steps: Distance of the windows, vertically and horizontally.
    """

    # The window and steps of the paper's segmentation head (figure 10).
    def __init__(self, window: int = 49, steps: tuple[int, int] = (16, 20)) -> None:
        super().__init__()
        self.window, self.steps = window, steps

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._averaging(x, size, step) for size, step in zip(x.shape[2:], self.steps))
        return ((x @ columns.T).mT @ rows.T).mT

    def _averaging(self, x: Tensor, size: int, step: int) -> Tensor:
        """Return the (windows, size) matrix that averages along one side; it exports with a dynamic size."""
        last = at_least(size - self.window, 0) // step
        # A single window is repeated, which resizes to the same values: exporters take a size of 1 for a constant.
        index = torch.arange(at_least(last + 1, 2), device=x.device).clamp(max=last)
        start = index[:, None] * step
        position = torch.arange(size, device=x.device)
        inside = ((position >= start) & (position < start + self.window)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)


class LRASPPHead(DecodeHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        branch_channels: Channels that each map but the last is projected to.
        **kwargs: Arguments of `DecodeHead`; ``input_transform`` must be ``multiple_select``.

    Raises:
        ConfigError: There is only one map, or not one number for each map but the last.
    """

    conformance: ClassVar = {
        "in_channels": [4, 4, 8],
        "in_index": [0, 1, 2],
        "channels": 8,
        "num_classes": 4,
        "branch_channels": (4, 8),
        "input_transform": "multiple_select",
    }

    def __init__(
        self, branch_channels: Sequence[PositiveInt] = (32, 64), **kwargs: Unpack[DecodeHeadArguments]
    ) -> None:
        super().__init__(**kwargs)
        if self.input_transform != "multiple_select":
            message = f"{self.input_transform!r}: several maps are needed"
            raise ConfigError(Problem(message, "input_transform", hint="write multiple_select"))
        if len(branch_channels) != len(self.in_channels) - 1:
            message = f"{len(branch_channels)} numbers for {len(self.in_channels)} maps, the last of which needs none"
            raise ConfigError(Problem(message, "branch_channels"))
        self.convs, self.conv_ups = nn.Sequential(), nn.Sequential()
        for i, width in enumerate(branch_channels):
            self.convs.add_module(f"conv{i}", nn.Conv2d(self.in_channels[i], width, 1, bias=False))
            self.conv_ups.add_module(f"conv_up{i}", self._conv(self.channels + width))
        self.conv_up_input = nn.Conv2d(self.channels, self.channels, 1)
        deepest = self.in_channels[-1]
        self.aspp_conv = self._conv(deepest)
        gate = ConvModule(deepest, self.channels, 1, act_cfg={"type": "Sigmoid"}, bias=False)
        self.image_pool = nn.Sequential(WindowPool(), gate)

    def forward_feature(self, features: Features) -> Tensor:
        *shallow, deep = self.select(features)
        gate = self._resize(self.image_pool(deep), deep)
        x = self.conv_up_input(self.aspp_conv(deep) * gate)
        levels = list(zip(shallow, self.convs, self.conv_ups, strict=True))
        for feature, conv, conv_up in reversed(levels):
            x = conv_up(torch.cat([self._resize(x, feature), conv(feature)], 1))
        return x

    def _conv(self, in_channels: int) -> ConvModule:
        return ConvModule(in_channels, self.channels, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg, bias=False)

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)
