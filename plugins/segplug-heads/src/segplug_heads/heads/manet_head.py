"""MA-Net: a U-Net decoder with attention over all positions of the coarsest map and over channels at each skip.

MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation, Fan et al., 2020
(https://doi.org/10.1109/ACCESS.2020.3025372).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, LayerConfigs, nchw_to_nlc
from segplug_heads.heads.pyramid_head import InterpolateMode, PyramidArguments
from segplug_heads.heads.skip_head import SkipHead, TwoConvs, squeeze_excitation


class PositionAttention(nn.Module):
    """Position-wise attention block (PAB): (N, channels, h, w) -> the same shape.

    Args:
        channels: Channels of the map.
        attention_channels: Channels of queries and keys.
    """

    def __init__(self, channels: int, attention_channels: int) -> None:
        super().__init__()
        self.top_conv = nn.Conv2d(channels, attention_channels, 1)
        self.center_conv = nn.Conv2d(channels, attention_channels, 1)
        self.bottom_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.out_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        queries, values = nchw_to_nlc(self.center_conv(x)), nchw_to_nlc(self.bottom_conv(x))
        affinity = queries @ self.top_conv(x).flatten(2)
        # One softmax over all pairs of positions, not one for each query.
        attention = affinity.flatten(1).softmax(1).view_as(affinity)
        # The reference takes the memory of (N, h w, channels) for (N, channels, h, w); weights are trained with that.
        return self.out_conv(x + (attention @ values).reshape(x.shape))


class FusionAttentionBlock(TwoConvs):
    """Multi-scale fusion attention block (MFAB): two maps (N, skip_channels, H, W) -> (N, channels, H, W).

    Args:
        in_channels: Channels of the coarser map, which ``hl_conv`` gives those of the skip connection.
        skip_channels: Channels of the skip connection.
        channels: Channels of the result.
        reduction: Divisor of the hidden channels of the attention.
        layers: Types of the layers.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, channels: int, reduction: int, **layers: Unpack[LayerConfigs]
    ) -> None:
        super().__init__(2 * skip_channels, channels, **layers)
        self.hl_conv = nn.Sequential(
            ConvModule(in_channels, in_channels, 3, padding=1, **layers),
            ConvModule(in_channels, skip_channels, 1, **layers),
        )
        self.SE_ll = squeeze_excitation(skip_channels, reduction)
        self.SE_hl = squeeze_excitation(skip_channels, reduction)

    def attention(self, high_level: Tensor, low_level: Tensor) -> Tensor:
        """Return the weights (N, skip_channels, 1, 1) of the coarser map's channels, between 0 and 2."""
        return self.SE_hl(high_level) + self.SE_ll(low_level)


class MAnetHead(SkipHead):
    """Feature maps, finest first, each half the size of the one before -> logits (N, out_channels, h, w).

    Args:
        pab_channels: Channels of queries and keys in the attention over positions. It compares all pairs of positions
            of the coarsest map, which limits the size of images.
        reduction: Divisor of the hidden channels of the attention over channels.
    """

    conformance: ClassVar = {
        "in_channels": [8, 16, 24], "in_index": [0, 1, 2], "decoder_channels": [16, 12, 8, 4], "num_classes": 4,
        "pab_channels": 4,
    }  # fmt: skip

    def __init__(
        self,
        decoder_channels: Sequence[PositiveInt] | None = None,
        interpolate_mode: InterpolateMode = "nearest",
        pab_channels: PositiveInt = 64,
        reduction: PositiveInt = 16,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(decoder_channels, interpolate_mode, **kwargs)
        coarsest, *skips = self.in_channels[::-1]
        self.center = PositionAttention(coarsest, pab_channels)
        self.blocks = nn.ModuleList()
        for width, skip in zip_longest(self.decoder_channels, skips):
            block = TwoConvs(coarsest, width, **self.layer_cfgs)
            if skip is not None:
                block = FusionAttentionBlock(coarsest, skip, width, reduction, **self.layer_cfgs)
            self.blocks.append(block)
            coarsest = width

    def forward_feature(self, features: Features) -> Tensor:
        x, *skips = self.select(features)[::-1]
        x = self.center(x)
        for block, skip in zip_longest(self.blocks, skips):
            if isinstance(block, FusionAttentionBlock):
                x = self.enlarge(block.hl_conv(x), skip)
                high_level, low_level = x.chunk(2, 1)
                x = torch.cat([high_level * block.attention(high_level, low_level), low_level], 1)
            else:
                x = self.enlarge(x, None)
            x = block(x)
        return x
