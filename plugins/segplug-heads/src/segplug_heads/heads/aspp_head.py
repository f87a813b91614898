"""DeepLabV3: context from convolutions of several dilations, and from the whole image.

Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, DecodeHead, DecodeHeadArguments, resize


class ASPPHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        dilations: Of the parallel convolutions; 1 is a 1x1 convolution.
    """

    def __init__(self, dilations: Sequence[int] = (1, 6, 12, 18), **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.dilations = tuple(dilations)
        self.layers_cfg = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.image_pool = nn.Sequential(
            AdaptiveAvgPool2d(1), ConvModule(self.in_channels, self.channels, 1, **self.layers_cfg)
        )
        self.aspp_modules = nn.ModuleList(self.branch(dilation) for dilation in self.dilations)
        joined = (len(self.dilations) + 1) * self.channels
        self.bottleneck = ConvModule(joined, self.channels, 3, padding=1, **self.layers_cfg)

    def branch(self, dilation: int) -> nn.Module:
        """Return one of the parallel convolutions, (N, in_channels, h, w) -> (N, channels, h, w)."""
        kernel_size, padding = (1, 0) if dilation == 1 else (3, dilation)
        return ConvModule(
            self.in_channels, self.channels, kernel_size, padding=padding, dilation=dilation, **self.layers_cfg
        )

    def fuse(self, x: Tensor) -> Tensor:
        """Return (N, in_channels, h, w) with its context, (N, channels, h, w)."""
        whole = resize(self.image_pool(x), x.shape[2:], align_corners=self.align_corners)
        return self.bottleneck(torch.cat([whole, *(branch(x) for branch in self.aspp_modules)], 1))

    def forward_feature(self, features: Features) -> Tensor:
        return self.fuse(self.select(features))
