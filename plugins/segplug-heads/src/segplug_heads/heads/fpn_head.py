"""Semantic FPN: the levels of a feature pyramid, upsampled step by step to the finest one and summed.

Panoptic Feature Pyramid Networks, Kirillov et al., 2019 (https://arxiv.org/abs/1901.02446).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, LayerConfigs, MultiLevelHeadArguments, build_upsample, resize


class FPNHead(DecodeHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        feature_strides: Stride of each map in pixels of the image; the first must be the smallest.

    Raises:
        ConfigError: There is not one stride for each map, or the first is not the smallest.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {
        "feature_strides": [4, 8, 16], "in_channels": [8, 8, 16], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4
    }  # fmt: skip

    def __init__(self, feature_strides: Sequence[PositiveInt], **kwargs: Unpack[MultiLevelHeadArguments]) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.feature_strides = tuple(feature_strides)
        if len(self.feature_strides) != len(self.in_channels):
            message = f"{len(self.feature_strides)} strides for {len(self.in_channels)} feature maps"
            raise ConfigError(Problem(message, "feature_strides"))
        if min(self.feature_strides) != self.feature_strides[0]:
            raise ConfigError(Problem(f"{list(feature_strides)}: the first is not the smallest", "feature_strides"))
        self.scale_heads = nn.ModuleList(
            upsampling_convs(
                width, self.channels, stride // min(feature_strides), self.align_corners, **self.layer_cfgs
            )
            for width, stride in zip(self.in_channels, self.feature_strides, strict=True)
        )

    def forward(self, features: Features) -> Tensor:
        finest, *coarser = (head(x) for head, x in zip(self.scale_heads, self.select(features), strict=True))
        for x in coarser:
            finest = finest + resize(x, finest.shape[2:], align_corners=self.align_corners)
        return self.cls_seg(finest)


def upsampling_convs(
    in_channels: int, channels: int, factor: int, align_corners: bool, **layers: Unpack[LayerConfigs]
) -> nn.Sequential:
    """Return convolutions, each followed by a 2x upsampling, up to ``factor`` (figure 3 of the paper)."""
    convs: list[nn.Module] = []
    for i in range(
        max(1, int(math.log2(factor)))
    ):  # the finest map needs no upsampling, but a convolution all the same
        convs.append(ConvModule(channels if i else in_channels, channels, 3, padding=1, **layers))
        if factor > 1:
            convs.append(build_upsample({"type": "bilinear"}, scale_factor=2, align_corners=align_corners))
    return nn.Sequential(*convs)
