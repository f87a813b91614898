"""Context from averages over grids of several sizes (Zhao et al., Pyramid Scene Parsing Network, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from segkernel.nn.conv_module import ConvModule
from segkernel.nn.layers import LayerConfig
from segkernel.nn.pool import AdaptiveAvgPool2d
from segkernel.nn.resize import resize


class PyramidPooling(nn.ModuleList):
    """A feature map averaged into grids of ``pool_scales`` cells a side, each projected and resized back.

    (N, in_channels, h, w) -> a list of one (N, channels, h, w) per scale.

    Args:
        pool_scales: Cells a side of each grid.
        in_channels: Of the feature map.
        channels: Of each projected one.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation.
        align_corners: How grids are resized.
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
