"""Joint pyramid upsampling: a fine map as rich as the coarse one, from convolutions of several dilations.

Wu et al., FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic Segmentation, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, DepthwiseSeparableConvModule, LayerConfig, resize


class JPU(Neck):
    """Feature maps, finest first -> those from ``start_level`` on, the last one replaced.

    The new one is (N, len(dilations) * mid_channels, h, w) at the size of the map ``start_level``.

    Args:
        in_channels: Channels of the maps.
        mid_channels: What each of them is projected to.
        start_level: The first map that is used.
        end_level: The first map that is not; -1 uses all.
        dilations: Of the parallel convolutions.
        align_corners: How maps are resized.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation.

    Raises:
        ConfigError: The levels leave no map.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 24], "mid_channels": 4, "dilations": [1, 2]}

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 1024, 2048),
        mid_channels: int = 512,
        start_level: int = 0,
        end_level: int = -1,
        dilations: Sequence[int] = (1, 2, 4, 8),
        align_corners: bool = False,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006  never changed
    ) -> None:
        super().__init__()
        end = len(in_channels) if end_level == -1 else end_level
        if not 0 <= start_level < end <= len(in_channels):
            message = f"levels {start_level} to {end} of {len(in_channels)} maps"
            raise ConfigError(Problem(message, "end_level"))
        self.levels = range(start_level, end)
        self.align_corners = align_corners
        layers = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.conv_layers = nn.ModuleList(
            nn.Sequential(ConvModule(in_channels[i], mid_channels, 3, padding=1, **layers)) for i in self.levels
        )
        joined = len(self.levels) * mid_channels
        self.dilation_layers = nn.ModuleList(
            nn.Sequential(
                DepthwiseSeparableConvModule(
                    joined,
                    mid_channels,
                    3,
                    padding=dilation,
                    dilation=dilation,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    dw_act_cfg=None,
                )
            )
            for dilation in dilations
        )

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        used = [features[i] for i in self.levels]
        size = used[0].shape[2:]
        narrow = [conv(x) for conv, x in zip(self.conv_layers, used, strict=True)]
        joined = torch.cat([resize(x, size, align_corners=self.align_corners) for x in narrow], 1)
        return (*used[:-1], torch.cat([layer(joined) for layer in self.dilation_layers], 1))
