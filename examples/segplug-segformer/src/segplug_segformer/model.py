"""SegFormer: a hierarchical transformer, and a head of 1x1 convolutions.

Reference: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, Xie et al., 2021
(https://arxiv.org/abs/2105.15203).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.interfaces.model import Backbone, Features
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, resize


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Attention(nn.Module):
    """Self-attention over (N, C, H, W), with keys and values downsampled ``reduction`` times per side."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.shrink = nn.Identity()
        if reduction > 1:
            smaller = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.shrink = nn.Sequential(smaller, ChannelNorm(channels))
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        key, value = self.key_value(self.shrink(x)).chunk(2, 1)
        found = F.scaled_dot_product_attention(self._split(self.query(x)), self._split(key), self._split(value))
        return self.project(found.transpose(2, 3).reshape(x.shape))

    def _split(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, heads, H * W, C / heads)."""
        return x.unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3)


class Block(nn.Module):
    """Residual attention and feed-forward layers; the 3x3 convolution replaces position embeddings."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), Attention(channels, heads, reduction))
        self.feed_forward = nn.Sequential(
            ChannelNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.Conv2d(4 * channels, 4 * channels, 3, padding=1, groups=4 * channels),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class MixVisionTransformer(Backbone):
    """Images (N, in_channels, H, W) to one map per stage, at 1/4, 1/8, 1/16 and 1/32 of their size.

    Args:
        in_channels: Channels of the image.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        heads: Attention heads of each stage.
        reductions: How much smaller, per side, the map is that each stage's attention looks at.
    """

    conformance: ClassVar = {"widths": (8, 16, 16, 16), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2)}

    def __init__(
        self,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
    ) -> None:
        super().__init__()
        self.channels = tuple(widths)
        self.strides = tuple(4 * 2**i for i in range(len(widths)))
        self.stages = nn.ModuleList()
        for i, (inputs, width) in enumerate(zip([in_channels, *widths], widths)):
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            patches = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2)
            blocks = [Block(width, heads[i], reductions[i]) for _ in range(depths[i])]
            self.stages.append(nn.Sequential(patches, ChannelNorm(width), *blocks, ChannelNorm(width)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, maps = images, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class SegformerHead(DecodeHead):
    """Maps of all stages to logits (N, out_channels, h, w) at the size of the first."""

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {"in_channels": (8, 16), "in_index": (0, 1), "channels": 8, "num_classes": 4}

    def __init__(self, **kwargs: Unpack[MultiLevelHeadArguments]) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.projections = nn.ModuleList(nn.Conv2d(width, self.channels, 1) for width in self.in_channels)
        self.mix = ConvModule(len(self.in_channels) * self.channels, self.channels, 1, norm_cfg=self.norm_cfg)

    def forward(self, features: Features) -> Tensor:
        maps = [project(x) for project, x in zip(self.projections, self.select(features))]
        maps = [resize(x, maps[0].shape[2:], align_corners=self.align_corners) for x in maps]
        return self.cls_seg(self.mix(torch.cat(maps, 1)))
