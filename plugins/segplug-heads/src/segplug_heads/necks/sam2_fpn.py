"""The neck of SAM 2's image encoder: a feature pyramid whose top-down path ends before the finest maps.

SAM 2: Segment Anything in Images and Videos, Ravi et al., 2024 (https://arxiv.org/abs/2408.00714), appendix D.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import resize


class SAM2FPN(Neck):
    """Maps (N, in_channels[i], h, w), finest first, to the ``num_outs`` finest maps (N, out_channels, h, w).

    Args:
        in_channels: Channels of the maps.
        out_channels: Channels of the outputs.
        top_down_levels: Maps to which the next coarser one is added, counted from 0 for the finest.
        num_outs: Maps to return; the authors drop the coarsest one, which only the top-down path uses.

    Raises:
        ConfigError: A level does not exist, or more maps are to be returned than there are; in ``forward``, the number
            of maps is not that of ``in_channels``.
    """

    conformance: ClassVar = {"in_channels": [4, 8, 16, 32], "out_channels": 8}
    conformance_inputs: ClassVar = {"features": [(4, 32), (8, 16), (16, 8), (32, 4)]}

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        out_channels: PositiveInt = 256,
        top_down_levels: Sequence[NonNegativeInt] = (2, 3),
        num_outs: PositiveInt = 3,
    ) -> None:
        super().__init__()
        if max(top_down_levels, default=0) >= len(in_channels):
            raise ConfigError(Problem(f"there are {len(in_channels)} maps, counted from 0", "top_down_levels"))
        if num_outs > len(in_channels):
            raise ConfigError(Problem(f"there are {len(in_channels)} maps, not {num_outs}", "num_outs"))
        self.top_down_levels, self.num_outs = tuple(top_down_levels), num_outs
        # Published weights count from the coarsest map.
        self.convs = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in reversed(in_channels))

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        if len(features) != len(self.convs):
            raise ConfigError(
                Problem(f"{len(features)} feature maps for {len(self.convs)} convolutions", "in_channels")
            )
        maps: list[Tensor] = []
        for level, conv in zip(reversed(range(len(features))), self.convs, strict=True):
            x = conv(features[level])
            if maps and level in self.top_down_levels:
                x = x + resize(maps[-1], (x.shape[2], x.shape[3]), mode="nearest")
            maps.append(x)
        return tuple(reversed(maps))[: self.num_outs]
