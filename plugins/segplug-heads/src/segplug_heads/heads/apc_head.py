"""APCNet: each pixel weighs the cells of pooled grids, by itself and by the whole image.

He et al., Adaptive Pyramid Context Network for Semantic Segmentation, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfig, adaptive_avg_pool


class ACM(nn.Module):
    """Adaptive context module: (N, in_channels, h, w) -> (N, channels, h, w).

    Args:
        pool_scale: Cells a side of the pooled grid.
        fusion: One more convolution at the end.
        in_channels: Channels of the input.
        channels: Channels of the result.
        layers: Kinds of layers.
    """

    def __init__(
        self, pool_scale: int, fusion: bool, in_channels: int, channels: int, layers: dict[str, LayerConfig | None]
    ) -> None:
        super().__init__()
        self.pool_scale = pool_scale
        self.pooled_redu_conv = ConvModule(in_channels, channels, 1, **layers)
        self.input_redu_conv = ConvModule(in_channels, channels, 1, **layers)
        self.global_info = ConvModule(channels, channels, 1, **layers)
        self.gla = nn.Conv2d(channels, pool_scale**2, 1)
        self.residual_conv = ConvModule(channels, channels, 1, **layers)
        self.fusion_conv = ConvModule(channels, channels, 1, **layers) if fusion else None

    def forward(self, x: Tensor) -> Tensor:
        cells = self.pooled_redu_conv(adaptive_avg_pool(x, self.pool_scale)).flatten(2)
        x = self.input_redu_conv(x)
        weights = self.gla(x + self.global_info(adaptive_avg_pool(x, 1))).sigmoid()
        context = (cells @ weights.flatten(2)).view_as(x)
        out = (self.residual_conv(context) + x).relu()
        return out if self.fusion_conv is None else self.fusion_conv(out)


class APCHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        pool_scales: Cells a side of each pooled grid.
        fusion: One more convolution at the end of each scale.
    """

    def __init__(
        self,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        fusion: bool = True,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.acm_modules = nn.ModuleList(
            ACM(scale, fusion, self.in_channels, self.channels, layers) for scale in pool_scales
        )
        joined = self.in_channels + len(pool_scales) * self.channels
        self.bottleneck = ConvModule(joined, self.channels, 3, padding=1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.bottleneck(torch.cat([x, *(module(x) for module in self.acm_modules)], 1))
