"""SETR-MLA: multi-level feature aggregation, the decoder on the maps that `MLANeck` makes of several layers.

Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, Zheng et al., 2021
(https://arxiv.org/abs/2012.15840).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, MultiLevelHeadArguments, build_upsample


class SETRMLAHead(DecodeHead):
    """Feature maps of one size -> logits (N, out_channels, h * up_scale, w * up_scale).

    Args:
        mla_channels: Channels that each map is projected to; ``channels`` is that times the number of maps.
        up_scale: Upsampling factor of the maps.

    Raises:
        ConfigError: ``channels`` is not ``mla_channels`` times the number of maps.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {
        "in_channels": [8, 8], "in_index": [0, 1], "channels": 8, "mla_channels": 4, "num_classes": 4
    }  # fmt: skip
    conformance_inputs: ClassVar = {"features": [(8, 16), (8, 16)]}

    def __init__(
        self, mla_channels: PositiveInt = 128, up_scale: PositiveInt = 4, **kwargs: Unpack[MultiLevelHeadArguments]
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if self.channels != mla_channels * len(self.in_channels):
            message = f"{self.channels} is not mla_channels, {mla_channels}, for each of {len(self.in_channels)} maps"
            raise ConfigError(Problem(message, "channels"))
        # As in MMSegmentation, `conv_cfg` does not reach these convolutions.
        norm_cfg, act_cfg = self.norm_cfg, self.act_cfg
        self.up_convs = nn.ModuleList(
            nn.Sequential(
                ConvModule(width, mla_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg),
                ConvModule(mla_channels, mla_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg),
                build_upsample({"type": "bilinear"}, scale_factor=up_scale, align_corners=self.align_corners),
            )
            for width in self.in_channels
        )

    def forward_feature(self, features: Features) -> Tensor:
        return torch.cat([up_conv(x) for up_conv, x in zip(self.up_convs, self.select(features), strict=True)], 1)
