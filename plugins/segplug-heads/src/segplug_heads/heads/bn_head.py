"""The linear head of DINOv2: batch norm and a classifier for each pixel, on one feature map or several.

DINOv2: Learning Robust Visual Features without Supervision, Oquab et al., 2023, section 7.4
(https://arxiv.org/abs/2304.07193).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import DecodeHead, DecodeHeadArguments, build_norm


class BNHead(DecodeHead):
    """(N, in_channels, h, w), or several maps resized to the first and concatenated -> logits (N, out_channels, h, w).

    Batch norm scales the features of a frozen backbone, which has none. ``norm_cfg`` is SyncBN for None;
    ``channels`` is the sum of ``in_channels``.

    Raises:
        ConfigError: ``channels`` is another number.
    """

    conformance: ClassVar[Any] = {
        "in_channels": [8, 8], "in_index": [0, 1], "input_transform": "resize_concat", "channels": 16, "num_classes": 3
    }  # fmt: skip

    def __init__(self, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        if self.in_channels != self.channels:
            raise ConfigError(Problem(f"{self.channels} is not {self.in_channels}, the input channels", "channels"))
        self.bn = build_norm(self.norm_cfg or {"type": "SyncBN"}, self.channels)[1]

    def forward_feature(self, features: Features) -> Tensor:
        return self.bn(self.select(features))
