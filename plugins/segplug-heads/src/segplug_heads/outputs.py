"""Outputs of models that predict values, not classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import PixelMap


@dataclass(frozen=True)
class PixelValues(PixelMap):
    """Real numbers (N, out_channels, h, w), a depth for example; decoded to (H, W), or (C, H, W) of several channels.

    Args:
        out_channels: Numbers for each pixel.
        align_corners: As in `segkernel.nn.resize`, for resizing the values.
    """

    classes: ClassVar[int] = 0  # type: ignore[misc]
    out_channels: PositiveInt = 1
    align_corners: bool = False

    def decode(self, raw: Tensor, activated: bool = False) -> Tensor:
        return raw[0, 0] if self.out_channels == 1 else raw[0]
