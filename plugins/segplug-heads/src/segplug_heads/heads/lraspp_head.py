"""LR-ASPP: a light head that weights deep features by a coarse pooling and adds shallow ones.

Searching for MobileNetV3, Howard et al., 2019 (https://arxiv.org/abs/1905.02244).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, resize


class WindowPool(nn.Module):
    """(N, C, H, W) -> (N, C, h, w): means of square windows, h and w at least 2.

    A map smaller than a window is averaged as a whole.

    Args:
        window: Side of a window in pixels.
        steps: How far apart they are, down and right.
    """

    def __init__(self, window: int = 49, steps: tuple[int, int] = (16, 20)) -> None:
        super().__init__()
        self.window, self.steps = window, steps

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (self._means(x, size, step) for size, step in zip(x.shape[2:], self.steps))
        return ((x @ columns.T).mT @ rows.T).mT

    def _means(self, x: Tensor, size: int, step: int) -> Tensor:
        """Return the (windows, size) matrix of means along one side; it also exports with any size."""
        last = torch.sym_max(size - self.window, 0) // step
        # A single window stands there twice, which enlarges to the same: exporters take a size of 1 for a constant.
        index = torch.arange(torch.sym_max(last + 1, 2), device=x.device).clamp(max=last)
        start = index[:, None] * step
        place = torch.arange(size, device=x.device)
        inside = ((place >= start) & (place < start + self.window)).to(x.dtype)
        return inside / inside.sum(1, keepdim=True)


class LRASPPHead(DecodeHead):
    """Feature maps, finest first, to scores (N, K, h, w) at the size of the first.

    Args:
        branch_channels: Channels that each map but the last is brought to.
        **kwargs: Of `DecodeHead`; ``input_transform`` must be ``multiple_select``.

    Raises:
        ConfigError: There is not one number for each map but the last, or only one map.
    """

    conformance: ClassVar = {
        "in_channels": [4, 4, 8],
        "in_index": [0, 1, 2],
        "channels": 8,
        "num_classes": 4,
        "branch_channels": (4, 8),
        "input_transform": "multiple_select",
    }

    def __init__(self, branch_channels: Sequence[int] = (32, 64), **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        if self.input_transform != "multiple_select":
            message = f"{self.input_transform!r}: several maps are needed"
            raise ConfigError(Problem(message, "input_transform", hint="write multiple_select"))
        if len(branch_channels) != len(self.in_channels) - 1:
            message = f"{len(branch_channels)} numbers for {len(self.in_channels)} maps, the last of which needs none"
            raise ConfigError(Problem(message, "branch_channels"))
        self.convs, self.conv_ups = nn.Sequential(), nn.Sequential()
        layers = {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg, "bias": False}
        for i, width in enumerate(branch_channels):
            self.convs.add_module(f"conv{i}", nn.Conv2d(self.in_channels[i], width, 1, bias=False))
            self.conv_ups.add_module(f"conv_up{i}", ConvModule(self.channels + width, self.channels, 1, **layers))
        self.conv_up_input = nn.Conv2d(self.channels, self.channels, 1)
        deepest = self.in_channels[-1]
        self.aspp_conv = ConvModule(deepest, self.channels, 1, **layers)
        weighting = ConvModule(deepest, self.channels, 1, act_cfg={"type": "Sigmoid"}, bias=False)
        self.image_pool = nn.Sequential(WindowPool(), weighting)

    def forward_feature(self, features: Features) -> Tensor:
        *shallow, deep = self.select(features)
        weights = self._resize(self.image_pool(deep), deep)
        x = self.conv_up_input(self.aspp_conv(deep) * weights)
        for feature, conv, conv_up in zip(shallow[::-1], [*self.convs][::-1], [*self.conv_ups][::-1]):
            x = conv_up(torch.cat([self._resize(x, feature), conv(feature)], 1))
        return x

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)
