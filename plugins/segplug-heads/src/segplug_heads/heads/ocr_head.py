"""OCRNet: pixels ask the regions of all classes, found by rough scores, for context.

Yuan, Chen and Wang, Object-Contextual Representations for Semantic Segmentation, 2020.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import CascadeDecodeHead, ConvModule, DecodeHeadArguments, LayerConfig, resize
from segplug_heads.parts.self_attention import SelfAttentionBlock


class SpatialGatherModule(nn.Module):
    """Mean feature of each class: (N, C, h, w) and scores (N, K, h, w) -> (N, C, K, 1).

    Args:
        scale: Factor of the scores before the softmax over pixels.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        share = (self.scale * scores.flatten(2)).softmax(2)
        return (x.flatten(2) @ share.mT).unsqueeze(3)


class ObjectAttentionBlock(SelfAttentionBlock):
    """Each pixel beside what it finds in the class features: (N, C, h, w) and (N, C, K, 1) -> (N, C, h, w).

    Args:
        in_channels: C.
        channels: Width of the attention.
        scale: Queries are max-pooled by this factor.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        scale: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
    ) -> None:
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
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.bottleneck = self.project(2 * in_channels, in_channels)

    def forward(self, query_feats: Tensor, key_feats: Tensor) -> Tensor:
        found = super().forward(query_feats, key_feats)
        if self.query_downsample is not None:
            found = resize(found, query_feats.shape[2:])
        return self.bottleneck(torch.cat([found, query_feats], 1))


class OCRHead(CascadeDecodeHead):
    """Feature maps (N, in_channels, h, w) and scores (N, K, h, w) -> (N, out_channels, h, w).

    Args:
        ocr_channels: Width of the attention.
        scale: Queries of the attention are max-pooled by this factor, and the scores multiplied with it.
    """

    conformance: ClassVar = {"in_channels": 16, "channels": 8, "ocr_channels": 4, "num_classes": 4}

    def __init__(self, ocr_channels: int, scale: int = 1, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.object_context_block = ObjectAttentionBlock(self.channels, ocr_channels, scale, **layers)
        self.spatial_gather_module = SpatialGatherModule(scale)
        self.bottleneck = ConvModule(self.in_channels, self.channels, 3, padding=1, **layers)

    def forward(self, features: Features, previous: Tensor) -> Tensor:
        x = self.bottleneck(self.select(features))
        return self.cls_seg(self.object_context_block(x, self.spatial_gather_module(x, previous)))
