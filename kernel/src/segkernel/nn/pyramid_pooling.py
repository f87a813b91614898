"""Pyramid pooling module.

Pyramid Scene Parsing Network, Zhao et al., 2017 (https://arxiv.org/abs/1612.01105).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkernel.nn.conv_module import ConvModule
from segkernel.nn.layers import LayerConfig
from segkernel.nn.pool import AdaptiveAvgPool2d
from segkernel.nn.resize import resize


class PyramidPooling(nn.ModuleList):
    """Average pooling to grids of several sizes, each with a 1x1 convolution and resized back.

    (N, in_channels, h, w) -> a list of (N, channels, h, w), one for each scale.

    Args:
        pool_scales: Side of each grid in bins.
        in_channels: Channels of the feature map.
        channels: Output channels of each scale.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms; None is no norm.
        act_cfg: Type of the activations; None is no activation.
        align_corners: As in `resize`.
    """

    def __init__(
        self,
        pool_scales: Sequence[int],
        in_channels: int,
        channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
        align_corners: bool,
    ) -> None:
        super().__init__(
            nn.Sequential(
                AdaptiveAvgPool2d(scale),
                ConvModule(in_channels, channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg),
            )
            for scale in pool_scales
        )
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> list[Tensor]:
        return [resize(pool(x), x.shape[2:], align_corners=self.align_corners) for pool in self]
