"""AFFormer's head: one convolution and the classifier, as its backbone needs no decoder.

Head-Free Lightweight Semantic Segmentation with Linear Transformer, Dong et al., 2023
(https://arxiv.org/abs/2301.04648).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments


class AFFormerHead(DecodeHead):
    """One feature map -> logits (N, out_channels, h, w) of its size."""

    conformance: ClassVar = {"in_channels": 8, "channels": 8, "num_classes": 4}

    def __init__(self, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.squeeze = ConvModule(self.in_channels, self.channels, 1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        return self.squeeze(self.select(features))
