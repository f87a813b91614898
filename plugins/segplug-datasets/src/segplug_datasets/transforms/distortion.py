"""The parameters that `PhotoMetricDistortion` drew for an image, applied on the CPU or, to a batch, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segkernel.image import opencv

if TYPE_CHECKING:
    from torch import Tensor

_VALUES = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Distortion:
    """Brightness, contrast, saturation and hue, with contrast before or after the latter two; identities are skipped.

    Every step rounds and clips to 0 to 255, as if it were stored as uint8.

    Args:
        brightness: Number added.
        contrast: Factor of all values, before saturation and hue.
        saturation: Factor of the saturation; None for 1.
        hue: Turn of the hue in OpenCV's half degrees; None for 0.
        contrast_after: Factor of all values, after saturation and hue.
    """

    brightness: float = 0
    contrast: float = 1
    saturation: float | None = None
    hue: int | None = None
    contrast_after: float = 1

    @property
    def turns(self) -> bool:
        """Whether saturation or hue is changed."""
        return self.saturation is not None or self.hue is not None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the distorted image (H, W, 3) uint8 RGB, by tables of 256 values."""
        before = _scaled(_scaled(_VALUES, 1, self.brightness), self.contrast)
        if not self.turns:
            return lookup(image, _scaled(before, self.contrast_after))
        cv2 = opencv()
        hsv = cv2.cvtColor(lookup(image, before), cv2.COLOR_RGB2HSV)
        planes = cv2.split(hsv)  # a table per plane is twice as fast as three at once
        for channel, table in self._turns().items():
            cv2.LUT(planes[channel], table, dst=planes[channel])
        cv2.merge(planes, dst=hsv)  # in place from here on, which is faster
        turned = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=hsv)
        return lookup(turned, _scaled(_VALUES, self.contrast_after), dst=hsv)

    def _turns(self) -> dict[int, np.ndarray]:
        """Return the tables of 256 uint8 values of hue (channel 0) and saturation (1), those that change."""
        tables: dict[int, np.ndarray] = {}
        if self.hue:
            tables[0] = ((np.arange(256) + self.hue) % 180).astype(np.uint8)
        if self.saturation is not None:
            tables[1] = _scaled(_VALUES, self.saturation).astype(np.uint8)
        return tables

    @staticmethod
    def together(images: Tensor, steps: Sequence[Distortion | None]) -> Tensor:
        """Return a batch (N, 3, H, W) float32, 0 to 255, with each image distorted by its own step.

        Equal to the CPU version, except for single values that OpenCV rounds differently in HSV.
        """
        drawn = [step or Distortion() for step in steps]

        def column(values: Sequence[float]) -> Tensor:
            return images.new_tensor(values).view(-1, 1, 1, 1)

        images = (images + column([step.brightness for step in drawn])).clamp(0, 255).floor()
        images = (images * column([step.contrast for step in drawn])).clamp(0, 255).floor()
        turning = [index for index, step in enumerate(drawn) if step.turns]
        if turning:
            factors = [drawn[i].saturation for i in turning]
            saturation = column([1.0 if factor is None else factor for factor in factors])
            images[turning] = _turned(images[turning], saturation, column([drawn[i].hue or 0 for i in turning]))
        return (images * column([step.contrast_after for step in drawn])).clamp(0, 255).floor()


def lookup(image: np.ndarray, table: np.ndarray, dst: np.ndarray | None = None) -> np.ndarray:
    """Return the image with every value replaced by its entry in a table of 256; ``dst`` may be the image itself."""
    if table is _VALUES:
        return image
    return opencv().LUT(np.ascontiguousarray(image), table.astype(np.uint8), dst=dst)


def _scaled(values: np.ndarray, factor: float, shift: float = 0) -> np.ndarray:
    if factor == 1 and shift == 0:
        return values
    return np.floor(np.clip(values * np.float32(factor) + np.float32(shift), 0, 255))


def _turned(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the saturation and turn the hue of a batch, rounded as OpenCV's 8-bit HSV is (hue 0 to 179)."""
    import torch

    red, green, blue = images.unbind(1)
    value, spread = images.amax(1), images.amax(1) - images.amin(1)
    second = torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    angle = torch.where(value == red, green - blue, second)
    angle = (angle * 30 / spread.clamp(min=1) + 0.5).floor()
    depth = (spread * 255 / value.clamp(min=1) + 0.5).floor()
    depth = (depth * saturation[:, 0]).clamp(0, 255).floor() / 255
    sixth = (angle + hue[:, 0]) % 180 / 30
    # A channel is the value less a share of the depth, by how far the hue is from the channel's own.
    places = torch.stack([(sixth + start) % 6 for start in (5, 3, 1)], 1)
    share = torch.minimum(places, 4 - places).clamp(0, 1)
    return (value[:, None] * (1 - depth[:, None] * share)).round()
