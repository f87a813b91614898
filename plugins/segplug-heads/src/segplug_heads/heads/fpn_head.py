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
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, build_upsample, resize


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
            self._scale_head(width, stride)
            for width, stride in zip(self.in_channels, self.feature_strides, strict=True)
        )

    def forward(self, features: Features) -> Tensor:
        finest, *coarser = (head(x) for head, x in zip(self.scale_heads, self.select(features), strict=True))
        for x in coarser:
            finest = finest + resize(x, finest.shape[2:], align_corners=self.align_corners)
        return self.cls_seg(finest)

    def _scale_head(self, in_channels: int, stride: int) -> nn.Sequential:
        """Return convolutions, each followed by a 2x upsampling except at the finest stride (figure 3 of the paper)."""
        finest = self.feature_strides[0]
        steps = int(math.log2(stride) - math.log2(finest))
        layers: list[nn.Module] = []
        for i in range(max(1, steps)):  # the finest map needs no upsampling, but a convolution all the same
            width = self.channels if i else in_channels
            layers.append(ConvModule(width, self.channels, 3, padding=1, **self.layer_cfgs))
            if stride != finest:
                layers.append(build_upsample({"type": "bilinear"}, scale_factor=2, align_corners=self.align_corners))
        return nn.Sequential(*layers)
