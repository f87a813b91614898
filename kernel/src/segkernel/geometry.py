"""Geometric operations, recorded first and evaluated lazily on the image and on every field.

Consecutive ones that are cheaper as one are fused (`Geometry.fuse`). Points are (x, y) in pixels with (0, 0) at the
outer corner of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

Size = tuple[int, int]
"""Height and width in pixels."""
NEAREST, LINEAR = 0, 1  # OpenCV's INTER_NEAREST and INTER_LINEAR, without importing it
OPENCV_DTYPES = ("uint8", "uint16", "int16", "float32", "float64")
"""Types of arrays that OpenCV resamples, and splits into channels."""


class Geometry:
    """A change of pixel positions, recorded first, then applied to the image and to every field."""

    bends: ClassVar[bool] = False
    """Whether straight lines become curves."""
    only_scales: ClassVar[bool] = False
    """Whether the image is only resized, so that a prediction can be resized back."""

    def size(self, size: Size) -> Size:
        """Return the new size of an image of ``size``."""
        raise NotImplementedError

    def matrix(self, size: Size) -> np.ndarray:
        """Return the (3, 3) float64 matrix that moves homogeneous points (x, y, 1), unless `move` is overridden."""
        raise NotImplementedError

    def move(self, points: np.ndarray, size: Size) -> np.ndarray:
        """Return the new positions, float64, of points (..., 2) of an image of ``size``."""
        matrix = self.matrix(size)
        return points @ matrix[:2, :2].T + matrix[:2, 2]

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        """Return the changed (H, W) or (H, W, C) array; ``interpolation`` is OpenCV's flag."""
        raise NotImplementedError

    def fuse(self, following: Geometry, size: Size) -> tuple[Geometry, ...]:
        """Return cheaper operations equal to this and then ``following``; empty if there are none.

        ``size`` is the image size between the two.
        """
        return ()


@dataclass
class Raster:
    """An array and its pending operations, which are applied on access."""

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
    """Add an operation to the pending ones of an image of current ``size``, fused with the last if that is cheaper."""
    fused = steps[-1].fuse(new, size) if steps else ()
    if not fused:
        return *steps, new
    first, *rest = fused
    return (*_plan(steps[:-1], first, size), *rest) if rest else (*steps[:-1], first)
