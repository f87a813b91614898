"""ANN: non-local blocks whose keys and values are a pyramid of average pools, instead of all pixels.

Zhu et al., Asymmetric Non-local Neural Networks for Semantic Segmentation, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict, Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import (
    AdaptiveAvgPool2d,
    ConvModule,
    DecodeHead,
    DecodeHeadArguments,
    LayerConfig,
    resize,
)
from segplug_heads.parts.self_attention import SelfAttentionBlock


class Layers(TypedDict):
    """The kinds of layers."""

    conv_cfg: LayerConfig | None
    norm_cfg: LayerConfig | None
    act_cfg: LayerConfig | None


class PPMConcat(nn.ModuleList):
    """(N, C, h, w) averaged into grids of ``pool_scales`` cells a side, all cells in a row: (N, C, L)."""

    def __init__(self, pool_scales: Sequence[int]) -> None:
        super().__init__(AdaptiveAvgPool2d(scale) for scale in pool_scales)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([pool(x).flatten(2) for pool in self], 2)


class PyramidAttention(SelfAttentionBlock):
    """(N, high_in_channels, h, w) and (N, low_in_channels, H, W) -> (N, out_channels, h, w).

    Args:
        low_in_channels: Channels of the map that keys and values are pooled from.
        high_in_channels: Channels of the map that asks.
        channels: Channels of queries, keys and values.
        out_channels: Channels of the result.
        share_key_query: One projection makes keys and queries.
        query_scale: Queries are max-pooled by this factor.
        key_pool_scales: Cells a side of each pooled grid.
        layers: Kinds of layers.
    """

    def __init__(
        self,
        low_in_channels: int,
        high_in_channels: int,
        channels: int,
        out_channels: int,
        share_key_query: bool,
        query_scale: int,
        key_pool_scales: Sequence[int],
        layers: Layers,
    ) -> None:
        super().__init__(
            key_in_channels=low_in_channels,
            query_in_channels=high_in_channels,
            channels=channels,
            out_channels=out_channels,
            share_key_query=share_key_query,
            query_downsample=nn.MaxPool2d(query_scale) if query_scale > 1 else None,
            key_downsample=PPMConcat(key_pool_scales),
            key_query_num_convs=1,
            value_out_num_convs=1,
            key_query_norm=True,
            value_out_norm=False,
            matmul_norm=True,
            with_out=True,
            **layers,
        )

    def forward(self, query_feats: Tensor, key_feats: Tensor) -> Tensor:
        found = super().forward(query_feats, key_feats)
        return found if self.query_downsample is None else resize(found, query_feats.shape[2:])


class AFNB(nn.Module):
    """Fusion: a coarse map (N, high_in_channels, h, w) with what it finds in a fine one (N, low_in_channels, H, W).

    The result is (N, out_channels, h, w). Arguments are those of `PyramidAttention`, with one for each query scale.
    """

    def __init__(
        self,
        low_in_channels: int,
        high_in_channels: int,
        channels: int,
        out_channels: int,
        query_scales: Sequence[int],
        key_pool_scales: Sequence[int],
        layers: Layers,
    ) -> None:
        super().__init__()
        ends = (low_in_channels, high_in_channels, channels, out_channels)
        self.stages = nn.ModuleList(
            PyramidAttention(*ends, False, scale, key_pool_scales, layers) for scale in query_scales
        )
        self.bottleneck = ConvModule(out_channels + high_in_channels, out_channels, 1, **{**layers, "act_cfg": None})

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        context = torch.stack([stage(high, low) for stage in self.stages]).sum(0)
        return self.bottleneck(torch.cat([context, high], 1))


class APNB(nn.Module):
    """Self-attention: a map (N, in_channels, h, w) with what it finds in itself, (N, out_channels, h, w).

    Arguments are those of `PyramidAttention`, with one for each query scale.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        query_scales: Sequence[int],
        key_pool_scales: Sequence[int],
        layers: Layers,
    ) -> None:
        super().__init__()
        ends = (in_channels, in_channels, channels, out_channels)
        self.stages = nn.ModuleList(
            PyramidAttention(*ends, True, scale, key_pool_scales, layers) for scale in query_scales
        )
        self.bottleneck = ConvModule(out_channels + in_channels, out_channels, 1, **layers)

    def forward(self, x: Tensor) -> Tensor:
        context = torch.stack([stage(x, x) for stage in self.stages]).sum(0)
        return self.bottleneck(torch.cat([context, x], 1))


class ANNHead(DecodeHead):
    """Two feature maps, the finer one first -> (N, out_channels, h, w) at the size of the second.

    Args:
        project_channels: Channels of queries, keys and values.
        query_scales: Factors by which queries are max-pooled, one attention each; their results are added.
        key_pool_scales: Cells a side of each grid that keys and values are averaged into.

    Raises:
        ConfigError: There are not two feature maps.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "in_channels": [8, 16], "in_index": [0, 1], "channels": 8, "num_classes": 4, "project_channels": 4
    }  # fmt: skip

    def __init__(
        self,
        project_channels: int,
        query_scales: Sequence[int] = (1,),
        key_pool_scales: Sequence[int] = (1, 3, 6, 8),
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if len(self.in_channels) != 2:
            message = f"{len(self.in_channels)} feature maps; the head takes a fine one and a coarse one"
            raise ConfigError(Problem(message, "in_channels"))
        low, high = self.in_channels
        layers: Layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        scales = (query_scales, key_pool_scales, layers)
        self.fusion = AFNB(low, high, project_channels, high, *scales)
        self.bottleneck = ConvModule(high, self.channels, 3, padding=1, **layers)
        self.context = APNB(self.channels, project_channels, self.channels, *scales)

    def forward_feature(self, features: Features) -> Tensor:
        low, high = self.select(features)
        fused = self.fusion(low, high)
        if self.dropout is not None:
            fused = self.dropout(fused)
        return self.context(self.bottleneck(fused))
