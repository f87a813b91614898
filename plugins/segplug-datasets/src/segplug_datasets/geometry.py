"""Basic geometric changes, which most transforms are made of.

sample.apply(Flip("horizontal")).apply(Crop(10, 20, 512, 512))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from segkernel.geometry import OPENCV_DTYPES, Geometry, Size
from segkernel.image import opencv


@dataclass(frozen=True)
class Resize(Geometry):
    """Scale to ``(height, width)``."""

    only_scales: ClassVar[bool] = True

    to: Size

    def size(self, size: Size) -> Size:
        return self.to

    def matrix(self, size: Size) -> np.ndarray:
        return np.diag([self.to[1] / size[1], self.to[0] / size[0], 1.0])

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if array.shape[:2] == tuple(self.to):
            return array
        resize, size = opencv().resize, (self.to[1], self.to[0])
        return sampled(array, fill, self.to, lambda part, border: resize(part, size, interpolation=interpolation))


@dataclass(frozen=True)
class Crop(Geometry):
    """Cut the window of ``height`` x ``width`` whose first pixel is (top, left); it must be inside."""

    top: int
    left: int
    height: int
    width: int

    def size(self, size: Size) -> Size:
        return self.height, self.width

    def matrix(self, size: Size) -> np.ndarray:
        return _translation(-self.left, -self.top)

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        return array[self.window]


@dataclass(frozen=True)
class Flip(Geometry):
    """Mirror left-right (``horizontal``), top-bottom (``vertical``) or both (``diagonal``)."""

    direction: Literal["horizontal", "vertical", "diagonal"] = "horizontal"

    def size(self, size: Size) -> Size:
        return size

    def matrix(self, size: Size) -> np.ndarray:
        matrix = np.eye(3)
        if self.direction != "vertical":
            matrix[0] = [-1, 0, size[1]]
        if self.direction != "horizontal":
            matrix[1] = [0, -1, size[0]]
        return matrix

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if array.dtype == np.uint8 and (array.ndim == 2 or 0 < array.shape[2] <= 4):  # much faster in OpenCV
            code = {"horizontal": 1, "vertical": 0, "diagonal": -1}[self.direction]
            return opencv().flip(array, code).reshape(array.shape)
        rows = slice(None, None, 1 if self.direction == "horizontal" else -1)
        columns = slice(None, None, 1 if self.direction == "vertical" else -1)
        return array[rows, columns]

    def fuse(self, following: Geometry, size: Size) -> tuple[Geometry, ...]:
        """Return the mirrored crop followed by this flip, so that fewer pixels are flipped."""
        if not isinstance(following, Crop):
            return ()
        if self.direction != "vertical":
            following = replace(following, left=size[1] - following.left - following.width)
        if self.direction != "horizontal":
            following = replace(following, top=size[0] - following.top - following.height)
        return following, self


@dataclass(frozen=True)
class Pad(Geometry):
    """Add borders, in pixels; images are filled with ``fill`` (one value or one per channel), fields with their own."""

    top: int = 0
    left: int = 0
    bottom: int = 0
    right: int = 0
    fill: float | tuple[float, ...] = 0

    def size(self, size: Size) -> Size:
        return size[0] + self.top + self.bottom, size[1] + self.left + self.right

    def matrix(self, size: Size) -> np.ndarray:
        return _translation(self.left, self.top)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        height, width = self.size(array.shape[:2])
        padded = np.full((height, width, *array.shape[2:]), fill, array.dtype)
        padded[self.top : self.top + array.shape[0], self.left : self.left + array.shape[1]] = array
        return padded


@dataclass(frozen=True)
class Warp(Geometry):
    """Affine transformation: ``affine`` (3, 3) maps points, ``to`` is the resulting (height, width)."""

    affine: np.ndarray
    to: Size
    fill: float | tuple[float, ...] = 0

    def size(self, size: Size) -> Size:
        return self.to

    def matrix(self, size: Size) -> np.ndarray:
        return self.affine

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        # OpenCV's origin is the centre of the first pixel, ours its corner.
        centred = (_translation(-0.5, -0.5) @ self.affine @ _translation(0.5, 0.5))[:2]
        warp, size = opencv().warpAffine, (self.to[1], self.to[0])

        def change(part: np.ndarray, border: tuple[float, ...]) -> np.ndarray:
            return warp(part, centred, size, flags=interpolation, borderValue=border)

        return sampled(array, fill, self.to, change)


def sampled(
    array: np.ndarray,
    fill: float | tuple[float, ...],
    to: Size,
    change: Callable[[np.ndarray, tuple[float, ...]], np.ndarray],
) -> np.ndarray:
    """Apply an OpenCV function to an array of any dtype and channels; OpenCV supports few dtypes and four channels."""
    ready = array if array.dtype.name in OPENCV_DTYPES else array.astype(np.float64)
    channels = array.shape[2] if array.ndim == 3 else 1
    border = tuple(np.broadcast_to(np.asarray(fill, np.float64), max(channels, 4 if np.ndim(fill) == 0 else 0)))
    if 0 < channels <= 4:
        return change(ready, border).reshape(*to, *array.shape[2:]).astype(array.dtype, copy=False)
    changed = np.empty((*to, channels), array.dtype)
    for first in range(0, channels, 4):
        part = slice(first, first + 4)
        changed[..., part] = change(ready[..., part], border[part]).reshape(*to, -1)
    return changed


def _translation(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
