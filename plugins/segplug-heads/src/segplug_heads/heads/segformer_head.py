"""SegFormer: feature maps of all scales, projected to one width, resized and mixed by 1x1 convolutions.

Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, 2021.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, resize


class SegformerHead(DecodeHead):
    """Several feature maps -> (N, out_channels, h, w) at the size of the first.

    Args:
        interpolate_mode: How maps are resized.
        linear_projection: Project every map by a plain linear layer, as the authors' own code and weights do;
            MMSegmentation's have a norm and an activation after it.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        interpolate_mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        linear_projection: bool = False,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        self.interpolate_mode = interpolate_mode
        plain = {"norm_cfg": None, "act_cfg": None}
        layers = plain if linear_projection else {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.convs = nn.ModuleList(ConvModule(width, self.channels, 1, **layers) for width in self.in_channels)
        self.fusion_conv = ConvModule(self.channels * len(self.convs), self.channels, 1, norm_cfg=self.norm_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        maps = self.select(features)
        size = maps[0].shape[2:]
        resized = [
            resize(conv(x), size, mode=self.interpolate_mode, align_corners=self.align_corners)
            for conv, x in zip(self.convs, maps, strict=True)
        ]
        return self.fusion_conv(torch.cat(resized, 1))
