"""A neck that gives all feature maps the same number of channels, with context from the coarser ones."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import ConvModule, LayerConfig, resize


class MyModelNeck(Neck):
    """Maps (N, in_channels[i], h_i, w_i) to maps (N, out_channels, h_i, w_i), each with the next coarser one added.

    Args:
        in_channels: Channels of each map, finest first.
        out_channels: Channels of all results.
        norm_cfg: Norm of the convolutions; None for none.
    """

    conformance: ClassVar = {"in_channels": (8, 16), "out_channels": 8}

    def __init__(
        self, in_channels: tuple[PositiveInt, ...], out_channels: PositiveInt, norm_cfg: LayerConfig | None = None
    ) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)
        self.laterals = nn.ModuleList(ConvModule(width, out_channels, 1, norm_cfg=norm_cfg) for width in in_channels)

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for fine in reversed(range(len(maps) - 1)):
            maps[fine] = maps[fine] + resize(maps[fine + 1], maps[fine].shape[2:])
        return tuple(maps)
