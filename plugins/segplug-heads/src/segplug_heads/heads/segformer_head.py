"""SegFormer: multi-level features, projected to one width, upsampled to one size and fused by a 1x1 convolution.

SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, Xie et al., 2021
(https://arxiv.org/abs/2105.15203).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, resize


class SegformerHead(DecodeHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        interpolate_mode: Interpolation of the maps.
        linear_projection: Project every map by a linear layer alone, as in the paper, the authors' code and their
            weights; MMSegmentation adds norm and activation.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        interpolate_mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        linear_projection: bool = False,
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.interpolate_mode = interpolate_mode
        norm_cfg, act_cfg = (None, None) if linear_projection else (self.norm_cfg, self.act_cfg)
        self.convs = nn.ModuleList(
            ConvModule(width, self.channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg) for width in self.in_channels
        )
        # In ascending order of strides; the authors concatenate descending, which their weight format reverses.
        self.fusion_conv = ConvModule(self.channels * len(self.convs), self.channels, 1, norm_cfg=self.norm_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        first, *others = [conv(x) for conv, x in zip(self.convs, self.select(features), strict=True)]
        size = first.shape[2:]
        resized = partial(resize, size=size, mode=self.interpolate_mode, align_corners=self.align_corners)
        if self.training:
            return self.fusion_conv(torch.cat([first, *map(resized, others)], 1))
        # A 1x1 convolution commutes with interpolation, and costs a fraction at a map's own size.
        conv, norm, activate = self.fusion_conv.conv, self.fusion_conv.norm, self.fusion_conv.activate
        weight, *weights = conv.weight.split(self.channels, 1)  # type: ignore[operator]
        fused = F.conv2d(first, weight, conv.bias)  # type: ignore[arg-type]
        for x, weight in zip(others, weights, strict=True):
            fused += resized(F.conv2d(x, weight))
        fused = fused if norm is None else norm(fused)
        return fused if activate is None else activate(fused)
