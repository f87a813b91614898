"""SETR-MLA: maps of several transformer layers, enlarged and joined; `MLANeck` makes them.

Zheng et al., Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, 2021
(https://arxiv.org/abs/2012.15840).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, build_upsample


class SETRMLAHead(DecodeHead):
    """Maps of one size -> (N, out_channels, h * up_scale, w * up_scale).

    Args:
        mla_channels: What each map is projected to; ``channels`` is that times the number of maps.
        up_scale: How much the maps are enlarged.

    Raises:
        ConfigError: When ``channels`` is something else.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {
        "in_channels": [8, 8], "in_index": [0, 1], "channels": 8, "mla_channels": 4, "num_classes": 4
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(8, 16), (8, 16)]}

    def __init__(self, mla_channels: int = 128, up_scale: int = 4, **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if self.channels != mla_channels * len(self.in_channels):
            message = f"{self.channels} is not mla_channels, {mla_channels}, for each of {len(self.in_channels)} maps"
            raise ConfigError(Problem(message, "channels"))
        layers = {"padding": 1, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.up_convs = nn.ModuleList(
            nn.Sequential(
                ConvModule(width, mla_channels, 3, **layers),
                ConvModule(mla_channels, mla_channels, 3, **layers),
                build_upsample({"type": "bilinear"}, scale_factor=up_scale, align_corners=self.align_corners),
            )
            for width in self.in_channels
        )

    def forward_feature(self, features: Features) -> Tensor:
        return torch.cat([up_conv(x) for up_conv, x in zip(self.up_convs, self.select(features), strict=True)], 1)
