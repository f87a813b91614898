"""Joint pyramid upsampling: a fine map in place of the coarsest, by parallel convolutions of several dilations.

FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic Segmentation, Wu et al., 2019
(https://arxiv.org/abs/1903.11816).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, DepthwiseSeparableConvModule, LayerConfig, resize


class JPU(Neck):
    """Feature maps, finest first -> those from ``start_level`` on, the last one replaced.

    The new one is (N, len(dilations) * mid_channels, h, w) at the size of the map ``start_level``.

    Args:
        in_channels: Channels of the maps.
        mid_channels: Channels that each of them is projected to.
        start_level: Index of the first map that is used.
        end_level: Index after the last map that is used; -1 uses all.
        dilations: Dilation of each parallel convolution.
        align_corners: As in `segkernel.nn.resize`.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations; None for no activation.

    Raises:
        ConfigError: The levels leave no map.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 24], "mid_channels": 4, "dilations": [1, 2]}

    def __init__(
        self,
        in_channels: Sequence[PositiveInt] = (512, 1024, 2048),
        mid_channels: PositiveInt = 512,
        start_level: int = 0,
        end_level: int = -1,
        dilations: Sequence[PositiveInt] = (1, 2, 4, 8),
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
        # The containers of one layer keep MMSegmentation's state-dict keys.
        self.conv_layers = nn.ModuleList(
            nn.Sequential(
                ConvModule(
                    in_channels[level],
                    mid_channels,
                    3,
                    padding=1,
                    conv_cfg=conv_cfg,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                )
            )
            for level in self.levels
        )
        self.dilation_layers = nn.ModuleList(
            nn.Sequential(
                DepthwiseSeparableConvModule(
                    len(self.levels) * mid_channels,
                    mid_channels,
                    3,
                    padding=dilation,
                    dilation=dilation,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    dw_act_cfg=None,  # the authors' separable convolution has its ReLU at the end only
                )
            )
            for dilation in dilations
        )

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        used = [features[level] for level in self.levels]
        size = used[0].shape[2:]
        projected = [conv(x) for conv, x in zip(self.conv_layers, used, strict=True)]
        x = torch.cat([resize(x, size, align_corners=self.align_corners) for x in projected], 1)
        return (*used[:-1], torch.cat([layer(x) for layer in self.dilation_layers], 1))
