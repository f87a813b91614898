"""A resize that computes only the window kept by a later crop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from segkernel.geometry import LINEAR, NEAREST, Geometry, Size
from segkernel.image import opencv
from segplug_datasets.geometry import Crop, Resize, sampled


@dataclass(frozen=True)
class WindowedResize(Resize):
    """Scale to ``(height, width)``, and compute only the window ``part`` if given.

    Labels equal those of the full resize; images are within one grey level of it where that saves enough time.
    """

    part: Crop | None = None

    def size(self, size: Size) -> Size:
        return self.part.size(self.to) if self.part else self.to

    def matrix(self, size: Size) -> np.ndarray:
        scale = super().matrix(size)
        return self.part.matrix(self.to) @ scale if self.part else scale

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if self.part and array.shape[:2] != tuple(self.to):
            if interpolation == NEAREST:
                return _picked(array, self.to, self.part)
            saved = self.to[0] * self.to[1] - 1.3 * self.part.height * self.part.width
            if interpolation == LINEAR and saved > 2**16:  # with smaller savings, the full resize is as fast
                window = _window(array, self.to, self.part)
                if window is not None:
                    return window
        changed = super().raster(array, interpolation, fill)
        return self.part.raster(changed, interpolation, fill) if self.part else changed

    def fuse(self, following: Geometry, size: Size) -> tuple[Geometry, ...]:
        """Return this resize with a smaller part, when a crop follows."""
        if not isinstance(following, Crop):
            return ()
        outer = self.part or Crop(0, 0, *self.to)
        return (
            replace(self, part=replace(following, top=outer.top + following.top, left=outer.left + following.left)),
        )


def _picked(array: np.ndarray, to: Size, part: Crop) -> np.ndarray:
    """Return a window of the array resized to its nearest pixels, exactly as OpenCV chooses them."""

    def places(length: int, new: int, window: slice) -> np.ndarray:
        ramp = np.arange(length, dtype=np.float32)[None]
        return opencv().resize(ramp, (new, 1), interpolation=NEAREST)[0, window].astype(np.intp)

    rows, columns = (places(array.shape[axis], to[axis], part.window[axis]) for axis in (0, 1))
    near = array[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rows, columns = rows - rows[0], columns - columns[0]
    # Rows are copied whole, so that choosing columns takes the time: of the fewer rows, therefore.
    return near[rows].take(columns, 1) if len(rows) < len(near) else near.take(columns, 1)[rows]


def _window(array: np.ndarray, to: Size, part: Crop) -> np.ndarray | None:
    """Return a window of the linearly resized array, within a grey level, reading only what it needs.

    Resizing a part gives the same pixels if its first pixel starts where one of the full resize does, which is nearly
    always possible a little before the window. None otherwise.
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


_REACH, _APART = 96, 1 / 64  # OpenCV's own warps are not finer


def _common_start(start: int, ratio: float) -> tuple[int, int] | None:
    """Return a pixel before ``start`` and the source pixel that begins where it does, ``ratio`` to one."""
    last = start - int(0.5 / ratio) - 2  # so that no pixel of the window is on the part's border
    if last <= 0:
        return 0, 0
    pixels = np.arange(last, max(last - _REACH, -1), -1)
    places = pixels * ratio
    apart = np.abs(places - np.rint(places))
    best = int(apart.argmin())
    return (int(pixels[best]), round(places[best])) if apart[best] <= _APART else None
