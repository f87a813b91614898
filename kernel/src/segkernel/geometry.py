"""Changes of where pixels are: planned first, then carried out on the image and on every field when somebody looks.

A crop after a resize costs its own window only. Points are (x, y) in pixels with (0, 0) at the outer corner of the
first pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from segkernel.image import opencv

Size = tuple[int, int]
"""Height and width in pixels."""
NEAREST, LINEAR = 0, 1  # OpenCV's INTER_NEAREST and INTER_LINEAR, without importing it
SAMPLED = ("uint8", "uint16", "int16", "float32", "float64")
"""Types that OpenCV resamples."""


class Geometry:
    """A change of where pixels are: planned first, then applied to the image and to every field."""

    bends: ClassVar[bool] = False
    """Whether straight lines become curves."""

    def size(self, size: Size) -> Size:
        """Return the size after the change of an image of ``size``."""
        raise NotImplementedError

    def matrix(self, size: Size) -> np.ndarray:
        """Return the (3, 3) float64 matrix that moves homogeneous points (x, y, 1); a change without one has `move`."""
        raise NotImplementedError

    def move(self, points: np.ndarray, size: Size) -> np.ndarray:
        """Return where points (..., 2) of an image of ``size`` are afterwards, float64."""
        matrix = self.matrix(size)
        return points @ matrix[:2, :2].T + matrix[:2, 2]

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        """Return the changed (H, W) or (H, W, C) array; ``interpolation`` is OpenCV's flag."""
        raise NotImplementedError


@dataclass(frozen=True)
class Resize(Geometry):
    """Scale to ``(height, width)``, and make only the window ``part`` of that when it is given."""

    to: Size
    part: Crop | None = None

    def size(self, size: Size) -> Size:
        return self.part.size(self.to) if self.part else self.to

    def matrix(self, size: Size) -> np.ndarray:
        scale = np.diag([self.to[1] / size[1], self.to[0] / size[0], 1.0])
        return self.part.matrix(self.to) @ scale if self.part else scale

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if self.part and array.shape[:2] != tuple(self.to):
            if interpolation == NEAREST:
                return _picked(array, self.to, self.part)
            saved = self.to[0] * self.to[1] - 1.3 * self.part.height * self.part.width
            if interpolation == LINEAR and saved > 2**16:  # for less, the whole and exact one is as fast
                window = _window(array, self.to, self.part)
                if window is not None:
                    return window
        changed = self._whole(array, interpolation, fill)
        return self.part.raster(changed, interpolation, fill) if self.part else changed

    def _whole(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if array.shape[:2] == tuple(self.to):
            return array
        resize, size = opencv().resize, (self.to[1], self.to[0])
        return sampled(array, fill, self.to, lambda part, border: resize(part, size, interpolation=interpolation))


def _picked(array: np.ndarray, to: Size, part: Crop) -> np.ndarray:
    """Return a window of the array resized to its nearest pixels, exactly as OpenCV chooses them."""

    def places(length: int, new: int, window: slice) -> np.ndarray:
        ramp = np.arange(length, dtype=np.float32)[None]
        return opencv().resize(ramp, (new, 1), interpolation=NEAREST)[0, window].astype(np.intp)

    rows, columns = (places(array.shape[axis], to[axis], part.window[axis]) for axis in (0, 1))
    near = array[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return near[rows - rows[0]].take(columns - columns[0], 1)


def _window(array: np.ndarray, to: Size, part: Crop) -> np.ndarray | None:
    """Return a window of the linearly resized array, within a grey level, reading only what it needs.

    Resizing a part gives the same pixels when its first one begins where one of the whole image does; a little before
    the window there is nearly always such a place. None when there is none.
    """
    found: list[tuple[int, int, int]] = []
    for length, new, window in zip(array.shape, to, part.window):
        start = _common_start(window.start, length / new)
        if start is None:
            return None
        found.append((*start, min(int(window.stop * length / new) + 3, length)))
    (top, y, bottom), (left, x, right) = found
    fx, fy = to[1] / array.shape[1], to[0] / array.shape[0]
    size = round((bottom - y) * fy), round((right - x) * fx)
    resize = opencv().resize
    near = sampled(array[y:bottom, x:right], 0, size, lambda near, _: resize(near, None, fx=fx, fy=fy))
    return near[part.top - top :, part.left - left :][: part.height, : part.width]


_REACH, _APART = 96, 1 / 64  # OpenCV's own warps are no finer


def _common_start(start: int, ratio: float) -> tuple[int, int] | None:
    """Return a pixel before ``start`` and the source pixel that begins where it does, ``ratio`` to one."""
    last = start - int(0.5 / ratio) - 2  # so that no pixel of the window lies on the part's border
    if last <= 0:
        return 0, 0
    pixels = np.arange(last, max(last - _REACH, -1), -1)
    places = pixels * ratio
    apart = np.abs(places - np.rint(places))
    best = int(apart.argmin())
    return (int(pixels[best]), round(places[best])) if apart[best] <= _APART else None


@dataclass(frozen=True)
class Crop(Geometry):
    """Cut the window of ``height`` x ``width`` whose first pixel is (top, left); it must lie inside."""

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
        if array.dtype == np.uint8 and (array.ndim == 2 or 0 < array.shape[2] <= 4):  # what OpenCV does far faster
            code = {"horizontal": 1, "vertical": 0, "diagonal": -1}[self.direction]
            return opencv().flip(array, code).reshape(array.shape)
        rows = slice(None, None, 1 if self.direction == "horizontal" else -1)
        columns = slice(None, None, 1 if self.direction == "vertical" else -1)
        return array[rows, columns]


@dataclass(frozen=True)
class Pad(Geometry):
    """Add borders, in pixels; an image's are filled with ``fill`` (one, or one per channel), a field's with its own."""

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
    """Any affine change: ``affine`` (3, 3) moves points, ``to`` is the resulting (height, width)."""

    affine: np.ndarray
    to: Size
    fill: float | tuple[float, ...] = 0

    def size(self, size: Size) -> Size:
        return self.to

    def matrix(self, size: Size) -> np.ndarray:
        return self.affine

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        # OpenCV counts from the centre of the first pixel, we count from its corner.
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
    """Apply an OpenCV function to an array of any dtype and number of channels: it takes few, and four at a time."""
    ready = array if array.dtype.name in SAMPLED else array.astype(np.float64)
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


@dataclass
class Raster:
    """An array and the changes planned for it, which are made when it is looked at."""

    source: np.ndarray
    steps: tuple[Geometry, ...] = ()

    @property
    def size(self) -> Size:
        size: Size = self.source.shape[:2]
        for step in self.steps:
            size = step.size(size)
        return size

    def then(self, step: Geometry) -> Raster:
        return Raster(self.source, _plan(self.steps, step, self.size))

    def array(self, interpolation: int, fill: float | None = None) -> np.ndarray:
        """Return the changed array; ``fill`` is each step's own when None."""
        array = self.source
        for step in self.steps:
            array = step.raster(array, interpolation, getattr(step, "fill", 0) if fill is None else fill)
        self.source, self.steps = array, ()
        return array


def _plan(steps: tuple[Geometry, ...], new: Geometry, size: Size) -> tuple[Geometry, ...]:
    """Add a change to those planned for an image now of ``size``: a crop goes before flips, and into a resize."""
    *before, last = steps or (None,)
    if isinstance(new, Crop) and isinstance(last, Flip):
        if last.direction != "vertical":
            new = replace(new, left=size[1] - new.left - new.width)
        if last.direction != "horizontal":
            new = replace(new, top=size[0] - new.top - new.height)
        return *_plan(tuple(before), new, size), last
    if isinstance(new, Crop) and isinstance(last, Resize):
        outer = last.part or Crop(0, 0, *last.to)
        return *before, replace(last, part=replace(new, top=outer.top + new.top, left=outer.left + new.left))
    return *steps, new
