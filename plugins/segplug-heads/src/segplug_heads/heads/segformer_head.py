"""SegFormer: multi-level features, projected to one width, upsampled to one size and fused by a 1x1 convolution.

SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, Xie et al., 2021
(https://arxiv.org/abs/2105.15203).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, resize
from segplug_heads.heads.pyramid_head import PyramidArguments, PyramidHead


class SegformerHead(PyramidHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of one of them.

    Args:
        interpolate_mode: Interpolation of the maps.
        linear_projection: Project every map by a linear layer alone, as in the paper, the authors' code and their
            weights; MMSegmentation adds norm and activation.
        size_index: The map, counted among the chosen ones, whose size the logits have; for None the one of stride 4
            where ``feature_strides`` tells it, else the first.
        channels: Channels of each projected map.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        interpolate_mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        linear_projection: bool = False,
        size_index: NonNegativeInt | None = None,
        *,
        channels: PositiveInt,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(channels, **kwargs)
        if size_index is None:
            strides = self.feature_strides or ()
            size_index = strides.index(4) if 4 in strides else 0
        self.interpolate_mode, self.size_index = interpolate_mode, size_index
        if size_index >= len(self.in_channels):
            raise ConfigError(Problem(f"{size_index}, but there are {len(self.in_channels)} maps", "size_index"))
        norm_cfg, act_cfg = (None, None) if linear_projection else (self.norm_cfg, self.act_cfg)
        self.convs = nn.ModuleList(
            ConvModule(width, self.channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg) for width in self.in_channels
        )
        # In ascending order of strides; the authors concatenate descending, which their weight format reverses.
        self.fusion_conv = ConvModule(self.channels * len(self.convs), self.channels, 1, norm_cfg=self.norm_cfg)

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        return [i for i, stride in enumerate(strides) if stride > 1]

    def forward_feature(self, features: Features) -> Tensor:
        maps = [conv(x) for conv, x in zip(self.convs, self.select(features), strict=True)]
        size = maps[self.size_index].shape[2:]
        resized = partial(resize, size=size, mode=self.interpolate_mode, align_corners=self.align_corners)
        if self.training:
            return self.fusion_conv(
                torch.cat([x if i == self.size_index else resized(x) for i, x in enumerate(maps)], 1)
            )
        # A 1x1 convolution commutes with interpolation, and costs a fraction at a coarser map's own size.
        conv, norm, activate = self.fusion_conv.conv, self.fusion_conv.norm, self.fusion_conv.activate
        weights = list(conv.weight.split(self.channels, 1))  # type: ignore[operator]
        fused = F.conv2d(maps.pop(self.size_index), weights.pop(self.size_index), conv.bias)  # type: ignore[arg-type]
        for x, weight in zip(maps, weights, strict=True):
            fused += resized(F.conv2d(x, weight))
        fused = fused if norm is None else norm(fused)
        return fused if activate is None else activate(fused)
