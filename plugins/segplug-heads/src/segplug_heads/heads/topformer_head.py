"""The head of TopFormer: the sum of its maps at the size of the first, and a 1x1 convolution.

TopFormer: Token Pyramid Transformer for Mobile Semantic Segmentation, Zhang et al., 2022
(https://arxiv.org/abs/2204.05525), section 3.4.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, resize


class TopFormerHead(DecodeHead):
    """Maps of ``channels`` channels, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        is_dw: Whether the convolution of the sum is depthwise.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {"in_channels": [8, 8], "in_index": [0, 1], "channels": 8, "num_classes": 4}

    def __init__(self, is_dw: bool = False, **kwargs: Unpack[MultiLevelHeadArguments]) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        width = self.channels
        groups = width if is_dw else 1
        self.linear_fuse = ConvModule(width, width, 1, groups=groups, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        first, *others = self.select(features)
        for x in others:
            first = first + resize(x, (first.shape[2], first.shape[3]), align_corners=self.align_corners)
        return self.linear_fuse(first)
