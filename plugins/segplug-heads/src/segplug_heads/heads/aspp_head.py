"""DeepLabV3: atrous spatial pyramid pooling, parallel convolutions of several dilations and global average pooling.

Rethinking Atrous Convolution for Semantic Image Segmentation, Chen et al., 2017 (https://arxiv.org/abs/1706.05587).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import AdaptiveAvgPool2d, Concat, ConvModule, DecodeHead, DecodeHeadArguments, resize


class ASPPHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        dilations: Dilation of each parallel convolution; the one of dilation 1 is 1x1, the others are 3x3.
        fusion_kernel: Side of the convolution that fuses the branches: 1 in the paper, 3 in MMSegmentation.
    """

    def __init__(
        self,
        dilations: Sequence[PositiveInt] = (1, 6, 12, 18),
        fusion_kernel: Literal[1, 3] = 3,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.dilations = tuple(dilations)
        self.image_pool = nn.Sequential(
            AdaptiveAvgPool2d(1), ConvModule(self.in_channels, self.channels, 1, **self.layer_cfgs)
        )
        self.aspp_modules = nn.ModuleList(self.branch(dilation) for dilation in self.dilations)
        self.concat = Concat()
        channels = (len(self.dilations) + 1) * self.channels
        self.bottleneck = ConvModule(
            channels, self.channels, fusion_kernel, padding=fusion_kernel // 2, **self.layer_cfgs
        )

    def branch(self, dilation: int) -> nn.Module:
        """Return one of the parallel convolutions, (N, in_channels, h, w) -> (N, channels, h, w)."""
        kernel_size, padding = (1, 0) if dilation == 1 else (3, dilation)
        return ConvModule(
            self.in_channels, self.channels, kernel_size, padding=padding, dilation=dilation, **self.layer_cfgs
        )

    def aspp(self, x: Tensor) -> Tensor:
        """Apply the parallel branches and fuse them: (N, in_channels, h, w) -> (N, channels, h, w)."""
        # The pooled image comes first, then the dilations in order: published bottlenecks weight them so.
        image = resize(self.image_pool(x), x.shape[2:], align_corners=self.align_corners)
        return self.bottleneck(self.concat(chain([image], (branch(x) for branch in self.aspp_modules))))

    def forward_feature(self, features: Features) -> Tensor:
        return self.aspp(self.select(features))
