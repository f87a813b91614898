"""ANN: non-local blocks whose keys and values are sampled by pyramid pooling instead of taken from all pixels.

Asymmetric Non-local Neural Networks for Semantic Segmentation, Zhu et al., 2019 (https://arxiv.org/abs/1908.07678).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import (
    AdaptiveAvgPool2d,
    ConvModule,
    DecodeHead,
    LayerConfigs,
    MultiLevelHeadArguments,
    resize,
)
from segplug_heads.parts.self_attention import SelfAttentionBlock


class PPMConcat(nn.ModuleList):
    """Pyramid pooling, flattened: (N, C, h, w) -> (N, C, S), S being the sum of ``scale``^2 over the scales.

    Args:
        pool_scales: Side of each grid in bins.
    """

    def __init__(self, pool_scales: Sequence[int]) -> None:
        super().__init__(AdaptiveAvgPool2d(scale) for scale in pool_scales)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([pool(x).flatten(2) for pool in self], 2)


class PyramidAttention(SelfAttentionBlock):
    """Attention from the pixels of a coarse map to the pooled pixels of a fine one.

    (N, high_in_channels, h, w) and (N, low_in_channels, H, W) -> (N, out_channels, h, w).

    Args:
        low_in_channels: Channels of the low-level map, which keys and values come from.
        high_in_channels: Channels of the high-level map, which queries come from.
        channels: Channels of queries, keys and values.
        out_channels: Output channels.
        share_key_query: Keys and queries share one projection.
        query_scale: Queries are max-pooled by this factor.
        key_pool_scales: Side in bins of each grid that keys and values are pooled to.
        layers: Types of the layers.
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
        layers: LayerConfigs,
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
        context = super().forward(query_feats, key_feats)
        return context if self.query_downsample is None else resize(context, query_feats.shape[2:])


class AFNB(nn.Module):
    """Asymmetric fusion non-local block: a high-level map attends to a low-level one (section 3.3 of the paper).

    (N, low_in_channels, H, W) and (N, high_in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        low_in_channels: Channels of the low-level map.
        high_in_channels: Channels of the high-level map.
        channels: Channels of queries, keys and values.
        out_channels: Output channels.
        query_scales: Factors that queries are max-pooled by; one attention each, summed.
        key_pool_scales: Side in bins of each grid that keys and values are pooled to.
        layers: Types of the layers.
    """

    def __init__(
        self,
        low_in_channels: int,
        high_in_channels: int,
        channels: int,
        out_channels: int,
        query_scales: Sequence[int],
        key_pool_scales: Sequence[int],
        layers: LayerConfigs,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            PyramidAttention(
                low_in_channels=low_in_channels,
                high_in_channels=high_in_channels,
                channels=channels,
                out_channels=out_channels,
                share_key_query=False,
                query_scale=scale,
                key_pool_scales=key_pool_scales,
                layers=layers,
            )
            for scale in query_scales
        )
        # Without activation, as in the reference implementation.
        linear: LayerConfigs = {**layers, "act_cfg": None}
        self.bottleneck = ConvModule(out_channels + high_in_channels, out_channels, 1, **linear)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        # The attention takes queries first; AFNB takes the low-level map first.
        context = torch.stack([stage(high, low) for stage in self.stages]).sum(0)
        return self.bottleneck(torch.cat([context, high], 1))


class APNB(nn.Module):
    """Asymmetric pyramid non-local block: a map attends to itself, pooled (section 3.2 of the paper).

    (N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        in_channels: Channels of the map.
        channels: Channels of queries, keys and values.
        out_channels: Output channels.
        query_scales: Factors that queries are max-pooled by; one attention each, summed.
        key_pool_scales: Side in bins of each grid that keys and values are pooled to.
        layers: Types of the layers.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        query_scales: Sequence[int],
        key_pool_scales: Sequence[int],
        layers: LayerConfigs,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            PyramidAttention(
                low_in_channels=in_channels,
                high_in_channels=in_channels,
                channels=channels,
                out_channels=out_channels,
                share_key_query=True,
                query_scale=scale,
                key_pool_scales=key_pool_scales,
                layers=layers,
            )
            for scale in query_scales
        )
        self.bottleneck = ConvModule(out_channels + in_channels, out_channels, 1, **layers)

    def forward(self, x: Tensor) -> Tensor:
        context = torch.stack([stage(x, x) for stage in self.stages]).sum(0)
        return self.bottleneck(torch.cat([context, x], 1))


class ANNHead(DecodeHead):
    """A low-level and a high-level feature map -> logits (N, out_channels, h, w) at the size of the high-level one.

    Args:
        project_channels: Channels of queries, keys and values.
        query_scales: Factors that queries are max-pooled by; one attention each, summed.
        key_pool_scales: Side in bins of each grid that keys and values are pooled to.

    Raises:
        ConfigError: There are not two feature maps.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "in_channels": [8, 16], "in_index": [0, 1], "channels": 8, "num_classes": 4, "project_channels": 4
    }  # fmt: skip

    def __init__(
        self,
        project_channels: PositiveInt,
        query_scales: Sequence[PositiveInt] = (1,),
        key_pool_scales: Sequence[PositiveInt] = (1, 3, 6, 8),
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if len(self.in_channels) != 2:
            message = f"{len(self.in_channels)} feature maps; the head takes a low-level and a high-level one"
            raise ConfigError(Problem(message, "in_channels"))
        low_in_channels, high_in_channels = self.in_channels
        self.fusion = AFNB(
            low_in_channels=low_in_channels,
            high_in_channels=high_in_channels,
            channels=project_channels,
            out_channels=high_in_channels,
            query_scales=query_scales,
            key_pool_scales=key_pool_scales,
            layers=self.layer_cfgs,
        )
        self.bottleneck = ConvModule(high_in_channels, self.channels, 3, padding=1, **self.layer_cfgs)
        self.context = APNB(
            in_channels=self.channels,
            channels=project_channels,
            out_channels=self.channels,
            query_scales=query_scales,
            key_pool_scales=key_pool_scales,
            layers=self.layer_cfgs,
        )

    def forward_feature(self, features: Features) -> Tensor:
        low, high = self.select(features)
        x = self.fusion(low, high)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.context(self.bottleneck(x))
