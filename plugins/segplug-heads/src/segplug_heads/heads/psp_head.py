"""PSPNet: context from a pyramid of average pools.

Zhao et al., Pyramid Scene Parsing Network, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, PyramidPooling


class PSPHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        pool_scales: Cells a side of each pooled grid.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(**kwargs)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.psp_modules = PyramidPooling(
            pool_scales, self.in_channels, self.channels, **layers, align_corners=self.align_corners
        )
        joined = self.in_channels + len(pool_scales) * self.channels
        self.bottleneck = ConvModule(joined, self.channels, 3, padding=1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.bottleneck(torch.cat([x, *self.psp_modules(x)], 1))
