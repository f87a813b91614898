"""Further outputs: values instead of classes, and classes that are resized in another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import interpolate

from segkernel.annotations import PositiveInt
from segkernel.geometry import Size
from segkernel.interfaces.model import PixelClasses, PixelMap


@dataclass(frozen=True)
class PixelValues(PixelMap):
    """Real numbers (N, out_channels, h, w), a depth for example; decoded to (H, W), or (C, H, W) of several channels.

    Args:
        out_channels: Numbers for each pixel.
        align_corners: As in `segkernel.nn.resize`, for resizing the values.
        interpolation: ``bilinear`` as MMSegmentation; ``bicubic``, and to the original image at once, as transformers.
    """

    classes: ClassVar[int] = 0  # type: ignore[misc]
    out_channels: PositiveInt = 1
    align_corners: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def resize(self, raw: Tensor, old: Size, new: Size) -> Tensor:
        if self.interpolation == "bilinear" or raw.shape[-2:] == tuple(new):
            return super().resize(raw, old, new)
        return interpolate(raw.contiguous(), tuple(new), None, "bicubic", self.align_corners)

    def finish(self, raw: Tensor, padded: Size, size: Size, original: Size) -> Tensor:
        if self.interpolation == "bilinear" or tuple(padded) != tuple(size):
            return super().finish(raw, padded, size, original)
        return self.decode(self.resize(raw, padded, original))

    def decode(self, raw: Tensor, activated: bool = False) -> Tensor:
        return raw[0, 0] if self.out_channels == 1 else raw[0]


@dataclass(frozen=True)
class DirectPixelClasses(PixelClasses):
    """Logits that are resized from the stride of the model to the original image at once, as transformers does.

    MMSegmentation resizes them to the size of the network's input first, as `PixelClasses` does; so does this if the
    input is padded.
    """

    def finish(self, raw: Tensor, padded: Size, size: Size, original: Size) -> Tensor:
        if tuple(padded) != tuple(size):
            return super().finish(raw, padded, size, original)
        return self.decode(self.resize(raw, padded, original))
