"""The decoder of U-Net on the feature maps of any backbone.

U-Net: Convolutional Networks for Biomedical Image Segmentation, Ronneberger, Fischer and Brox, 2015
(https://arxiv.org/abs/1505.04597). Two convolutions per block and nearest upsampling are what practitioners build on
pretrained encoders; the paper upsamples by a transposed convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, resize


class UNetHead(DecodeHead):
    """Feature maps, finest first, each half the size of the one before -> logits (N, out_channels, h, w).

    Each block doubles the resolution and concatenates the next finer map; blocks beyond the finest map only double it.
    ``channels`` is the width of the last block.

    Args:
        decode_channels: Output channels of each block, coarsest first; at least one for each map but the coarsest. None
            is one block per map, as wide as ``channels`` in the last and twice as wide in each before.
        interpolate_mode: Interpolation of the upsampling.

    Raises:
        ConfigError: When ``decode_channels`` are too few, or the last is not ``channels``.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {
        "in_channels": [8, 16, 24], "in_index": [0, 1, 2], "decode_channels": [16, 12, 8, 4], "channels": 4,
        "num_classes": 4,
    }  # fmt: skip

    def __init__(
        self,
        decode_channels: Sequence[PositiveInt] | None = None,
        interpolate_mode: Literal["nearest", "bilinear"] = "nearest",
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        coarsest, *skips = self.in_channels[::-1]
        if decode_channels is None:
            decode_channels = [self.channels * 2**i for i in reversed(range(len(self.in_channels)))]
        if len(decode_channels) < len(skips) or decode_channels[-1] != self.channels:
            message = f"{list(decode_channels)}: at least {len(skips)} blocks, the last of {self.channels} channels"
            raise ConfigError(Problem(message, "decode_channels"))
        self.interpolate_mode = interpolate_mode
        self.blocks = nn.ModuleList()
        for width, skip in zip_longest(decode_channels, skips, fillvalue=0):
            self.blocks.append(
                nn.Sequential(
                    ConvModule(coarsest + skip, width, 3, padding=1, **self.layer_cfgs),
                    ConvModule(width, width, 3, padding=1, **self.layer_cfgs),
                )
            )
            coarsest = width
        # From the usual 0.01 all weights move alike in a short run: rare classes get no feature of their own.
        self.conv_seg.reset_parameters()

    def forward_feature(self, features: Features) -> Tensor:
        x, *skips = self.select(features)[::-1]
        for block, skip in zip_longest(self.blocks, skips):
            size = (2 * x.shape[2], 2 * x.shape[3]) if skip is None else skip.shape[2:]
            x = resize(x, size, mode=self.interpolate_mode, align_corners=self.align_corners)
            x = block(x if skip is None else torch.cat([x, skip], 1))
        return x
