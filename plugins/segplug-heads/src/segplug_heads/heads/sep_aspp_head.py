"""DeepLabV3+: ASPP of depthwise separable convolutions, and a decoder that adds a low-level feature map.

Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, Chen et al., 2018
(https://arxiv.org/abs/1802.02611).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHeadArguments, DepthwiseSeparableConvModule, resize
from segplug_heads.heads.aspp_head import ASPPHead


class DepthwiseSeparableASPPHead(ASPPHead):
    """Feature maps -> logits (N, out_channels, h, w).

    They have the size of the first map, or of the map ``in_index`` when ``c1_in_channels`` is 0.

    Args:
        c1_in_channels: Channels of the first, low-level feature map; 0 does not use it.
        c1_channels: Channels that it is projected to.
        dilations: Dilation of each parallel convolution; the one of dilation 1 is 1x1, the others are 3x3.
    """

    fixed_arguments = frozenset({"fusion_kernel"})
    conformance: ClassVar = {
        "in_channels": 16, "in_index": 2, "channels": 8, "num_classes": 4, "c1_in_channels": 16, "c1_channels": 4
    }  # fmt: skip

    def __init__(
        self,
        c1_in_channels: PositiveInt,
        c1_channels: PositiveInt,
        dilations: Sequence[PositiveInt] = (1, 6, 12, 18),
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(dilations, **kwargs)
        self.c1_bottleneck = ConvModule(c1_in_channels, c1_channels, 1, **self.layer_cfgs) if c1_in_channels else None
        channels = self.channels + (c1_channels if c1_in_channels else 0)
        self.sep_bottleneck = nn.Sequential(self._separable(channels), self._separable(self.channels))

    def branch(self, dilation: int) -> nn.Module:
        if dilation == 1:  # a 1x1 convolution has nothing to separate
            return super().branch(dilation)
        return self._separable(self.in_channels, dilation)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.aspp(self.select(features))
        if self.c1_bottleneck is not None:
            low_level = self.c1_bottleneck(features[0])
            x = torch.cat([resize(x, low_level.shape[2:], align_corners=self.align_corners), low_level], 1)
        return self.sep_bottleneck(x)

    def _separable(self, in_channels: int, dilation: int = 1) -> DepthwiseSeparableConvModule:
        return DepthwiseSeparableConvModule(
            in_channels,
            self.channels,
            3,
            padding=dilation,
            dilation=dilation,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
