"""ICNet's cascade: a coarse map is enlarged and added to the next finer one, twice.

Zhao et al., ICNet for Real-time Semantic Segmentation on High-resolution Images, 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, resize


class CascadeFeatureFusion(nn.Module):
    """A coarse (N, low_channels, any size) and a fine map (N, high_channels, h, w) -> two (N, out_channels, h, w).

    The first is their sum, the second the coarse one alone, for an auxiliary head. (In the paper that head sees it
    before the convolution.)
    """

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        out_channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
        align_corners: bool,
    ) -> None:
        super().__init__()
        conv = partial(ConvModule, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv_low = conv(low_channels, out_channels, 3, padding=2, dilation=2)
        self.conv_high = conv(high_channels, out_channels, 1)
        self.align_corners = align_corners

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        low = self.conv_low(resize(low, high.shape[2:], align_corners=self.align_corners))
        return F.relu(low + self.conv_high(high)), low


class ICNeck(Neck):
    """Three maps, the finest first, to three of ``out_channels``: two for auxiliary heads, and the fused one.

    The first is at the size of the second input, the others at that of the first.

    Args:
        in_channels: Of the three maps.
        out_channels: Of the results.
        conv_cfg: Kind of convolution; None is the ordinary one.
        norm_cfg: Kind of norm and its arguments.
        act_cfg: Kind of activation.
        align_corners: How maps are enlarged.

    Raises:
        ConfigError: When there are not three ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (64, 256, 256),
        out_channels: int = 128,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if len(in_channels) != 3:
            raise ConfigError(Problem(f"{list(in_channels)} must have 3 numbers, one for each map", "in_channels"))
        fine, middle, coarse = in_channels
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.in_channels = tuple(in_channels)
        self.cff_24 = CascadeFeatureFusion(coarse, middle, out_channels, **layers, align_corners=align_corners)
        self.cff_12 = CascadeFeatureFusion(out_channels, fine, out_channels, **layers, align_corners=align_corners)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        fine, middle, coarse = features
        fused, first = self.cff_24(coarse, middle)
        fused, second = self.cff_12(fused, fine)
        return first, second, fused
