"""APCNet: each pixel mixes the regions of pooled maps with weights that depend on itself and on the whole image.

Adaptive Pyramid Context Network for Semantic Segmentation, He et al., 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfigs, adaptive_avg_pool


class ACM(nn.Module):
    """Adaptive context module: (N, in_channels, h, w) -> (N, channels, h, w).

    Args:
        pool_scale: Side of the pooled grid in bins.
        fusion: Add a 1x1 convolution at the end.
        in_channels: Channels of the feature map.
        channels: Output channels.
        layers: Types of the layers.
    """

    def __init__(self, pool_scale: int, fusion: bool, in_channels: int, channels: int, layers: LayerConfigs) -> None:
        super().__init__()
        self.pool_scale = pool_scale
        self.pooled_redu_conv = ConvModule(in_channels, channels, 1, **layers)
        self.input_redu_conv = ConvModule(in_channels, channels, 1, **layers)
        self.global_info = ConvModule(channels, channels, 1, **layers)
        self.gla = nn.Conv2d(channels, pool_scale**2, 1)
        self.residual_conv = ConvModule(channels, channels, 1, **layers)
        self.fusion_conv = ConvModule(channels, channels, 1, **layers) if fusion else None

    def forward(self, x: Tensor) -> Tensor:
        regions = self.pooled_redu_conv(adaptive_avg_pool(x, self.pool_scale)).flatten(2)
        x = self.input_redu_conv(x)
        # Global-guided local affinity: a weight for each region from the pixel and the image's mean. A sigmoid, not a
        # softmax, so that the weights of a pixel need not sum to one.
        affinity = self.gla(x + self.global_info(adaptive_avg_pool(x, 1))).sigmoid()
        context = (regions @ affinity.flatten(2)).view_as(x)
        out = (self.residual_conv(context) + x).relu()
        return out if self.fusion_conv is None else self.fusion_conv(out)


class APCHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        pool_scales: Side of each pooled grid in bins; one `ACM` each.
        fusion: Add a 1x1 convolution at the end of each.
    """

    def __init__(
        self,
        pool_scales: Sequence[PositiveInt] = (1, 2, 3, 6),
        fusion: bool = True,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.acm_modules = nn.ModuleList(
            ACM(scale, fusion, self.in_channels, self.channels, self.layer_cfgs) for scale in pool_scales
        )
        channels = self.in_channels + len(pool_scales) * self.channels
        self.bottleneck = ConvModule(channels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.bottleneck(torch.cat([x, *(module(x) for module in self.acm_modules)], 1))
