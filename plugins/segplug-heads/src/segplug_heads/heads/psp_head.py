"""PSPNet: context from a pyramid of average pools.

Zhao et al., Pyramid Scene Parsing Network, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, DecodeHead, DecodeHeadArguments, LayerConfig, resize


class PyramidPooling(nn.ModuleList):
    """A feature map averaged into grids of ``pool_scales`` cells a side, each projected and resized back.

    (N, in_channels, h, w) -> one (N, channels, h, w) per scale.
    """

    def __init__(
        self,
        pool_scales: Sequence[int],
        in_channels: int,
        channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
        align_corners: bool,
    ) -> None:
        super().__init__(
            nn.Sequential(
                AdaptiveAvgPool2d(scale),
                ConvModule(in_channels, channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg),
            )
            for scale in pool_scales
        )
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> list[Tensor]:
        return [resize(pool(x), x.shape[2:], align_corners=self.align_corners) for pool in self]


class PSPHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        pool_scales: Cells a side of each pooled grid.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.psp_modules = PyramidPooling(
            pool_scales, self.in_channels, self.channels, **layers, align_corners=self.align_corners
        )
        joined = self.in_channels + len(pool_scales) * self.channels
        self.bottleneck = ConvModule(joined, self.channels, 3, padding=1, **layers)

    def forward(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.cls_seg(self.bottleneck(torch.cat([x, *self.psp_modules(x)], 1)))
