"""The simple feature pyramid of ViTDet: all levels from the last map of a plain vision transformer.

Exploring Plain Vision Transformer Backbones for Object Detection, Li et al., 2022 (https://arxiv.org/abs/2203.16527).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features, Neck
from segkernel.nn import build_norm

FACTORS = (4, 2, 1, 0.5)


class SimpleFeaturePyramid(Neck):
    """One map (N, in_channels, h, w) to maps (N, out_channels, h * factor, w * factor), finest first.

    With a backbone of stride 16, the strides are 4, 8, 16 and 32; odd sizes are rounded up. Names of parameters are
    those of ViTDet's authors, ``simfp_2`` for stride 4.

    Args:
        in_channels: Channels of the backbone's map; a multiple of 4 for the factor 4.
        out_channels: Channels of all levels.
        scale_factors: Factor of each level: 4, 2, 1 or 0.5.
        in_index: The map to use, counted from 0; -1 is the last.
        stride: Stride of that map in pixels; it only names the parameters and ``strides``.
        norm_cfg: Type of the norms and its arguments.

    Raises:
        ConfigError: A factor is not one of these, or given twice, or the channels are no multiple of 4.
    """

    conformance: ClassVar = {"in_channels": 8, "out_channels": 4}
    conformance_inputs: ClassVar = {"features": [(8, 16)] * 2}

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt = 256,
        scale_factors: Sequence[Positive] = FACTORS,
        in_index: int = -1,
        stride: PositiveInt = 16,
        norm_cfg: Mapping[str, Any] = {"type": "LN2d", "eps": 1e-6},
    ) -> None:
        super().__init__()
        if in_channels % 4:
            raise ConfigError(Problem(f"{in_channels} is no multiple of 4", "in_channels"))
        if not set(scale_factors) <= {*FACTORS} or len({*scale_factors}) < len(scale_factors):
            message = f"{list(scale_factors)} should be different factors of {', '.join(map(str, FACTORS))}"
            raise ConfigError(Problem(message, "scale_factors"))
        self.in_index = in_index
        levels = [round(math.log2(stride / factor)) for factor in scale_factors]
        self.names = [f"simfp_{level}" for level in levels]
        # That of patches of 14 pixels is nominal: a map of stride 3.5 counts as one of 4.
        self.channels, self.strides = (out_channels,) * len(levels), tuple(2**level for level in levels)
        for name, factor in zip(self.names, scale_factors, strict=True):
            rescale, width = _rescale(factor, in_channels, norm_cfg)
            level = [*rescale, _NormedConv(width, out_channels, 1, norm_cfg)]
            self.add_module(name, nn.Sequential(*level, _NormedConv(out_channels, out_channels, 3, norm_cfg)))

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        """Return a map for each factor."""
        return tuple(self.get_submodule(name)(features[self.in_index]) for name in self.names)


class _NormedConv(nn.Conv2d):
    """A convolution without bias and a norm, at the same size."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = build_norm(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def _rescale(factor: float, width: int, norm_cfg: Mapping[str, Any]) -> tuple[list[nn.Module], int]:
    """Return the layers that rescale a map, and their output channels."""
    if factor == 1:
        return [], width
    if factor == 0.5:
        return [nn.MaxPool2d(2, ceil_mode=True)], width
    first = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
    if factor == 2:
        return [first], width // 2
    norm = build_norm(norm_cfg, width // 2)[1]
    return [first, norm, nn.GELU(), nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2)], width // 4
