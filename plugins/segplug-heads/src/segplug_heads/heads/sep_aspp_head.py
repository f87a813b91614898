"""DeepLabV3+: separable atrous convolutions, and a fine feature map for sharp borders.

Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHeadArguments, DepthwiseSeparableConvModule, resize
from segplug_heads.heads.aspp_head import ASPPHead


class DepthwiseSeparableASPPHead(ASPPHead):
    """Feature maps -> (N, out_channels, h, w) at the size of the first, or without it of the chosen one.

    Args:
        c1_in_channels: Channels of the first feature map; 0 does without it.
        c1_channels: What it is projected to.
        dilations: Of the parallel convolutions; 1 is a 1x1 convolution.
    """

    conformance: ClassVar = {
        "in_channels": 16, "in_index": 2, "channels": 8, "num_classes": 4, "c1_in_channels": 16, "c1_channels": 4
    }  # fmt: skip

    def __init__(
        self,
        c1_in_channels: int,
        c1_channels: int,
        dilations: Sequence[int] = (1, 6, 12, 18),
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(dilations, **kwargs)
        self.c1_bottleneck = ConvModule(c1_in_channels, c1_channels, 1, **self.layers_cfg) if c1_in_channels else None
        joined = self.channels + (c1_channels if c1_in_channels else 0)
        self.sep_bottleneck = nn.Sequential(self._separable(joined), self._separable(self.channels))

    def branch(self, dilation: int) -> nn.Module:
        if dilation == 1:
            return super().branch(dilation)
        return self._separable(self.in_channels, dilation)

    def forward_feature(self, features: Features) -> Tensor:
        out = self.fuse(self.select(features))
        if self.c1_bottleneck is not None:
            fine = self.c1_bottleneck(features[0])
            out = torch.cat([resize(out, fine.shape[2:], align_corners=self.align_corners), fine], 1)
        return self.sep_bottleneck(out)

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
