"""OCRNet: pixels attend to object regions, one for each class, that coarse logits outline.

Object-Contextual Representations for Semantic Segmentation, Yuan, Chen and Wang, 2020
(https://arxiv.org/abs/1909.11065).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import CascadeDecodeHead, ConvModule, DecodeHeadArguments, LayerConfigs, resize
from segplug_heads.parts.self_attention import SelfAttentionBlock


class SpatialGatherModule(nn.Module):
    """Object region representations: (N, C, h, w) and logits (N, K, h, w) -> (N, C, K, 1), equation 3 of the paper.

    Args:
        scale: The logits are multiplied by it before the softmax over the pixels.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        # Over the pixels, not the classes: each region is a weighted mean of pixels.
        weights = (self.scale * logits.flatten(2)).softmax(2)
        return (x.flatten(2) @ weights.mT).unsqueeze(3)


class ObjectAttentionBlock(SelfAttentionBlock):
    """Pixels concatenated with their attention to the regions: (N, C, h, w) and (N, C, K, 1) -> (N, C, h, w).

    Args:
        in_channels: C.
        channels: Channels of queries, keys and values.
        scale: Queries are max-pooled by this factor.
        layers: Types of the layers.
    """

    def __init__(self, in_channels: int, channels: int, scale: int, layers: LayerConfigs) -> None:
        # Two layers for queries and keys (f_pixel and f_object in the authors' code), one for values and output (f_down
        # and f_up); the paper's equations leave the depth open.
        super().__init__(
            key_in_channels=in_channels,
            query_in_channels=in_channels,
            channels=channels,
            out_channels=in_channels,
            share_key_query=False,
            query_downsample=nn.MaxPool2d(scale) if scale > 1 else None,
            key_downsample=None,
            key_query_num_convs=2,
            value_out_num_convs=1,
            key_query_norm=True,
            value_out_norm=True,
            matmul_norm=True,
            with_out=True,
            **layers,
        )
        self.bottleneck = self.project(2 * in_channels, in_channels)

    def forward(self, query_feats: Tensor, key_feats: Tensor) -> Tensor:
        context = super().forward(query_feats, key_feats)
        if self.query_downsample is not None:
            context = resize(context, query_feats.shape[2:])
        return self.bottleneck(torch.cat([context, query_feats], 1))


class OCRHead(CascadeDecodeHead):
    """Feature maps and the logits (N, K, h, w) of another head -> refined logits (N, out_channels, h, w).

    Args:
        ocr_channels: Channels of queries, keys and values.
        scale: Queries are max-pooled by this factor, and the other head's logits multiplied by it.
    """

    conformance: ClassVar = {"in_channels": 16, "channels": 8, "ocr_channels": 4, "num_classes": 4}

    def __init__(
        self, ocr_channels: PositiveInt, scale: PositiveInt = 1, **kwargs: Unpack[DecodeHeadArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.object_context_block = ObjectAttentionBlock(self.channels, ocr_channels, scale, self.layer_cfgs)
        self.spatial_gather_module = SpatialGatherModule(scale)
        self.bottleneck = ConvModule(self.in_channels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward(self, features: Features, previous: Tensor) -> Tensor:  # type: ignore[override]  # as CascadeHead
        x = self.bottleneck(self.select(features))
        regions = self.spatial_gather_module(x, previous)
        return self.cls_seg(self.object_context_block(x, regions))
