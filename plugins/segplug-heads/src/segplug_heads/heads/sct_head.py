"""SCTNet's head: a preactivated convolution and a classifier.

SCTNet: Single-Branch CNN with Transformer Semantic Information for Real-Time Segmentation, Xu et al., 2024
(https://arxiv.org/abs/2312.17071), section 3.5.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import DecodeHead, DecodeHeadArguments, build_norm


class SCTHead(DecodeHead):
    """One feature map -> logits (N, out_channels, h, w) of its size."""

    conformance: ClassVar = {"in_channels": 8, "channels": 8, "num_classes": 4, "norm_cfg": {"type": "BN"}}

    def __init__(self, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        norm_cfg = self.norm_cfg or {"type": "BN"}
        self.bn1 = build_norm(norm_cfg, self.in_channels)[1]
        self.conv1 = nn.Conv2d(self.in_channels, self.channels, 3, padding=1)
        self.bn2 = build_norm(norm_cfg, self.channels)[1]

    def forward_feature(self, features: Features) -> Tensor:
        x = self.conv1(F.relu(self.bn1(self.select(features))))
        return F.relu(self.bn2(x))
