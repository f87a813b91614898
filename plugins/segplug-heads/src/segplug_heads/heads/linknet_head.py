"""LinkNet: light decoder blocks whose outputs are added to the encoder's maps.

LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation, Chaurasia and Culurciello, 2017
(https://arxiv.org/abs/1707.03718).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, LayerConfigs, build_activation, build_norm, resize
from segplug_heads.heads.pyramid_head import PyramidArguments, PyramidHead, halving_maps


class LinknetHead(PyramidHead):
    """Feature maps, finest first, each half the size of the one before -> logits (N, out_channels, h, w).

    A block halves the number of pixels per side that a pixel stands for; there is one for each halving of the backbone.

    Args:
        channels: Channels of the last block.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "num_classes": 4, "channels": 4}

    def __init__(self, channels: PositiveInt = 32, **kwargs: Unpack[PyramidArguments]) -> None:
        super().__init__(channels, **kwargs)
        finest, *_ = self.in_channels
        strides = self.feature_strides
        # Between the finest map and the image, blocks keep the channels of the former.
        further = round(math.log2(strides[0])) - 1 if strides else 0
        widths = [*self.in_channels[::-1], *[finest] * further, channels]
        self.blocks = nn.ModuleList(
            LinknetBlock(width, following, **self.layer_cfgs) for width, following in pairwise(widths)
        )

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        return halving_maps(strides)

    def forward_feature(self, features: Features) -> Tensor:
        x, *skips = self.select(features)[::-1]
        for block, skip in zip_longest(self.blocks, skips):
            x = block(x)
            if skip is not None:  # of an odd size, it is a pixel smaller or larger
                x = resize(x, skip.shape[2:], mode="nearest") + skip
        return x


class LinknetBlock(nn.Module):
    """(N, in_channels, h, w) -> (N, channels, 2 h, 2 w): project, upsample by a transposed convolution, project."""

    def __init__(self, in_channels: int, channels: int, **layers: Unpack[LayerConfigs]) -> None:
        super().__init__()
        hidden = max(1, in_channels // 4)
        upsample = nn.Sequential(nn.ConvTranspose2d(hidden, hidden, 4, stride=2, padding=1))
        if norm_cfg := layers.get("norm_cfg"):
            upsample.append(build_norm(norm_cfg, hidden)[1])
        if act_cfg := layers.get("act_cfg"):
            upsample.append(build_activation(act_cfg, inplace=True))
        self.block = nn.Sequential(
            ConvModule(in_channels, hidden, 1, **layers), upsample, ConvModule(hidden, channels, 1, **layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)
