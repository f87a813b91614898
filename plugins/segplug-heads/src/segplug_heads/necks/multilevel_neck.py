"""A feature pyramid from the maps of a plain vision transformer, which have all one stride, by interpolation.

As MMSegmentation does for ViT, An Image is Worth 16x16 Words, Dosovitskiy et al., 2021
(https://arxiv.org/abs/2010.11929).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, resize


class MultiLevelNeck(Neck):
    """Feature maps -> ``len(scales)`` maps (N, out_channels, h * scales[i], w * scales[i]).

    Each map is projected, resized and convolved. A single map is used for all outputs.

    Args:
        in_channels: Channels of each map.
        out_channels: Channels of the outputs.
        scales: Size of each output, as a multiple of its input's.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations; None for no activation.

    Raises:
        ConfigError: There are neither as many scales as maps, nor a single map.
    """

    conformance: ClassVar = {"in_channels": [8, 16, 16, 16], "out_channels": 8}
    conformance_inputs: ClassVar = {"features": [(8, 16), (16, 16), (16, 16), (16, 16)]}

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        out_channels: PositiveInt,
        scales: Sequence[Positive] = (0.5, 1, 2, 4),
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        if len(in_channels) not in (1, len(scales)):
            raise ConfigError(Problem(f"{len(scales)} scales for {len(in_channels)} maps", "scales"))
        self.scales = tuple(scales)
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg) for width in in_channels
        )
        self.convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg) for _ in scales
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.lateral_convs):
            message = f"{len(features)} feature maps for {len(self.lateral_convs)} in_channels"
            raise ConfigError(Problem(message, "in_channels"))
        maps = [conv(x) for conv, x in zip(self.lateral_convs, features)]
        if len(maps) == 1:  # a plain transformer's one map makes the whole pyramid
            maps = maps * len(self.scales)
        return tuple(conv(resize(x, scale_factor=s)) for conv, x, s in zip(self.convs, maps, self.scales))
