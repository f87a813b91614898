"""PSPNet: global context from pyramid pooling.

Pyramid Scene Parsing Network, Zhao et al., 2017 (https://arxiv.org/abs/1612.01105).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import Concat, ConvModule, DecodeHead, DecodeHeadArguments, PyramidPooling


class PSPHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        pool_scales: Side of each pooled grid in bins.
    """

    def __init__(
        self, pool_scales: Sequence[PositiveInt] = (1, 2, 3, 6), **kwargs: Unpack[DecodeHeadArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.psp_modules = PyramidPooling(
            pool_scales, self.in_channels, self.channels, align_corners=self.align_corners, **self.layer_cfgs
        )
        self.concat = Concat()
        # The paper projects to 1/N of the channels for N scales: 512 of 2048, which is the usual `channels`.
        channels = self.in_channels + len(pool_scales) * self.channels
        self.bottleneck = ConvModule(channels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.bottleneck(self.concat([x, *self.psp_modules(x)]))
