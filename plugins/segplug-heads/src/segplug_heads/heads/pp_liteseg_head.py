"""PP-LiteSeg: a light decoder whose maps are fused by spatial attention, after a simple pyramid pooling.

PP-LiteSeg: A Superior Real-Time Semantic Segmentation Model, Peng et al., 2022 (https://arxiv.org/abs/2204.02681).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, adaptive_avg_pool, resize


class SimplePyramidPooling(nn.Module):
    """Sum of the map pooled to a few sizes, figure 4 of the paper: (N, C, H, W) -> (N, D, H, W).

    Args:
        in_channels: C.
        channels: D, also of each pooled map.
        bins: Sides of the pooled maps.
        layers: Norm and activation of the convolutions.
    """

    def __init__(self, in_channels: int, channels: int, bins: Sequence[int], layers: dict[str, Any]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.convs = nn.ModuleList(ConvModule(in_channels, channels, 1, **layers) for _ in bins)
        self.conv_out = ConvModule(channels, channels, 3, padding=1, **layers)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        pooled = [conv(adaptive_avg_pool(x, (side, side))) for conv, side in zip(self.convs, self.bins, strict=True)]
        return self.conv_out(torch.stack([resize(y, size) for y in pooled]).sum(0))


class UnifiedAttentionFusion(nn.Module):
    """Weigh a fine and a coarse map by an attention over the pixels, equations 1 and 4 of the paper.

    (N, C, H, W) and (N, D, h, w) -> (N, E, H, W).

    Args:
        fine_channels: C.
        coarse_channels: D.
        out_channels: E.
        layers: Norm and activation of the convolutions.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int, layers: dict[str, Any]) -> None:
        super().__init__()
        self.conv_fine = ConvModule(fine_channels, coarse_channels, 3, padding=1, **layers)
        self.attention = nn.Sequential(
            ConvModule(4, 2, 3, padding=1, **layers),
            ConvModule(2, 1, 3, padding=1, **{**layers, "act_cfg": None}),
        )
        self.conv_out = ConvModule(coarse_channels, out_channels, 3, padding=1, **layers)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        fine = self.conv_fine(fine)
        coarse = resize(coarse, (fine.shape[2], fine.shape[3]))
        statistics = [each for x in (fine, coarse) for each in (x.mean(1, keepdim=True), x.amax(1, keepdim=True))]
        weight = self.attention(torch.cat(statistics, 1)).sigmoid()
        return self.conv_out(fine * weight + coarse * (1 - weight))


class PPLiteSegHead(DecodeHead):
    """Maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        fusion_channels: Channels after the fusion with each map, finest first; 64, 96, 128 for STDC2 (PP-LiteSeg-B),
            and 32, 64, 128 for STDC1 (PP-LiteSeg-T).
        pool_channels: Channels of the pyramid pooling.
        bins: Sides of its pooled maps.

    Raises:
        ConfigError: There is not one number of ``fusion_channels`` for each map.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "in_channels": [8, 16, 16],
        "in_index": [0, 1, 2],
        "fusion_channels": [4, 8, 8],
        "pool_channels": 8,
        "channels": 8,
        "num_classes": 4,
        "norm_cfg": {"type": "BN"},
    }

    def __init__(
        self,
        fusion_channels: Sequence[PositiveInt] = (64, 96, 128),
        pool_channels: PositiveInt = 128,
        bins: Sequence[PositiveInt] = (1, 2, 4),
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if len(fusion_channels) != len(self.in_channels):
            message = f"{len(fusion_channels)} numbers for {len(self.in_channels)} maps"
            raise ConfigError(Problem(message, "fusion_channels"))
        layers: dict[str, Any] = {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.pooling = SimplePyramidPooling(self.in_channels[-1], pool_channels, bins, layers)
        widths = [*fusion_channels, pool_channels]
        self.fusions = nn.ModuleList(
            UnifiedAttentionFusion(fine, widths[i + 1], widths[i], layers) for i, fine in enumerate(self.in_channels)
        )
        self.conv = ConvModule(widths[0], self.channels, 3, padding=1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        maps = self.select(features)
        x = self.pooling(maps[-1])
        for fine, fusion in zip(reversed(maps), reversed(self.fusions), strict=True):
            x = fusion(fine, x)
        return self.conv(x)
