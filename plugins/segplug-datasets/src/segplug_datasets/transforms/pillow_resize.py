"""Resizing as Pillow does, with the size rules of transformers' image processors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from segkernel.annotations import PositiveInt
from segkernel.errors import UsageError
from segkernel.geometry import NEAREST, Size
from segkernel.sample import Sample
from segplug_datasets.geometry import Resize

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


class PillowResize:
    """Scale as Pillow does: when an image becomes smaller, a pixel averages all those that it covers.

    The arithmetic is Pillow's. Columns are scaled before rows; where Pillow does it the other way round, for some
    sizes, a result may differ by a grey level or two. One of ``size`` and ``shortest_edge`` is given.

    Args:
        size: (height, width) in pixels.
        shortest_edge: Pixels of the shorter edge; the aspect ratio is kept.
        longest_edge: Limit of the longer edge, with ``shortest_edge``; the aspect ratio is kept.
        keep_aspect_ratio: Scale both edges by that one of the factors of ``size`` which changes the image less.
        multiple_of: Height and width are rounded to multiples of this, with ``size``.
        size_divisor: Height and width are rounded up to multiples of this.
        resample: The filter. Labels always take the nearest pixel.

    Raises:
        UsageError: Unless one of ``size`` and ``shortest_edge`` is given.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = (
        {"size": (51, 77)},
        {"shortest_edge": 64, "longest_edge": 80, "resample": "bicubic"},
        {"size": (64, 64), "keep_aspect_ratio": True, "multiple_of": 14},
    )

    def __init__(
        self,
        size: tuple[PositiveInt, PositiveInt] | None = None,
        shortest_edge: PositiveInt | None = None,
        longest_edge: PositiveInt | None = None,
        keep_aspect_ratio: bool = False,
        multiple_of: PositiveInt = 1,
        size_divisor: PositiveInt = 1,
        resample: Resample = "bilinear",
    ) -> None:
        if (size is None) == (shortest_edge is None):
            raise UsageError("PillowResize needs either 'size' or 'shortest_edge'")
        self.size, self.shortest_edge, self.longest_edge = size, shortest_edge, longest_edge
        self.keep_aspect_ratio, self.multiple_of = keep_aspect_ratio, multiple_of
        self.size_divisor, self.resample = size_divisor, resample

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return sample.apply(FilteredResize(self.target(sample.size), self.resample))

    def target(self, size: Size) -> Size:
        """Return the (height, width) that an image of ``size`` gets."""
        height, width = self._fitted(size) if self.size else self._with_shortest_edge(size)
        return self._divisible(height), self._divisible(width)

    def _fitted(self, size: Size) -> Size:
        assert self.size is not None
        factors = [new / old for new, old in zip(self.size, size)]
        if self.keep_aspect_ratio:
            factors = [min(reversed(factors), key=lambda factor: abs(1 - factor))] * 2
        elif self.multiple_of == 1:
            return self.size
        # Halves are rounded to even numbers.
        height, width = (round(factor * old / self.multiple_of) for factor, old in zip(factors, size))
        return max(height, 1) * self.multiple_of, max(width, 1) * self.multiple_of

    def _with_shortest_edge(self, size: Size) -> Size:
        edge, short, long = float(self.shortest_edge or 0), min(size), max(size)
        if self.longest_edge and long / short * edge > self.longest_edge:
            edge = self.longest_edge * short / long
        new = max(round(edge), 1), max(int(edge * long / short), 1)
        return new if size[0] <= size[1] else (new[1], new[0])

    def _divisible(self, edge: int) -> int:
        return -(-edge // self.size_divisor) * self.size_divisor


@dataclass(frozen=True)
class FilteredResize(Resize):
    """Scale to ``(height, width)`` by a filter whose support grows with the reduction."""

    resample: Resample = "bilinear"

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if array.shape[:2] == tuple(self.to):
            return array
        if interpolation == NEAREST or self.resample == "nearest":
            rows, columns = (_nearest(old, new) for old, new in zip(array.shape, self.to))
            return array[rows[:, None], columns]
        narrow = _along_rows(array.swapaxes(0, 1), self.to[1], self.resample).swapaxes(0, 1)
        return _along_rows(narrow, self.to[0], self.resample)


def _nearest(old: int, new: int) -> np.ndarray:
    scale = old / new
    steps = np.full(new, scale)
    steps[0] = scale * 0.5
    return np.cumsum(steps).astype(np.intp).clip(0, old - 1)  # Pillow adds, too, which decides about halves


def _along_rows(array: np.ndarray, new: int, resample: Resample) -> np.ndarray:
    """Return (H, W, ...) as (new, W, ...)."""
    if array.shape[0] == new:
        return array
    array = np.ascontiguousarray(array)
    first, weights = _coefficients(array.shape[0], new, resample)
    is_byte = array.dtype == np.uint8
    weights = np.trunc(weights * _ONE + np.copysign(0.5, weights)).astype(np.int32) if is_byte else weights
    total = np.full((new, *array.shape[1:]), _ONE // 2 if is_byte else 0, np.int32 if is_byte else np.float64)
    for tap, weight in enumerate(weights.T):
        # Beyond the border the weights are zero.
        rows = array[np.minimum(first + tap, array.shape[0] - 1)].astype(total.dtype)
        rows *= weight.reshape(-1, *[1] * (array.ndim - 1))
        total += rows
    return (total >> _BITS).clip(0, 255).astype(np.uint8) if is_byte else total.astype(array.dtype)


_BITS = 22
"""Of the fraction of a weight, in Pillow's arithmetic for 8-bit images."""
_ONE = 1 << _BITS


class _Coefficients(NamedTuple):
    """For each new pixel the first old one that counts, (new,), and the weights of that and the next, (new, taps)."""

    first: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=64)
def _coefficients(old: int, new: int, resample: Resample) -> _Coefficients:
    support, kernel = _FILTERS[resample]
    scale = old / new
    stretch = max(scale, 1.0)
    reach = support * stretch
    centers = (np.arange(new) + 0.5) * scale
    first = np.trunc(centers - reach + 0.5).clip(0).astype(np.intp)
    last = np.trunc(centers + reach + 0.5).clip(max=old).astype(np.intp)
    places = first[:, None] + np.arange((last - first).max())
    weights = kernel((places - centers[:, None] + 0.5) / stretch) * (places < last[:, None])
    return _Coefficients(first, weights / weights.sum(1, keepdims=True))


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(float)


def _triangle(x: np.ndarray) -> np.ndarray:
    return (1 - np.abs(x)).clip(0)


def _hamming(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(math.pi * x)), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


_FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "box": (0.5, _box),
    "bilinear": (1, _triangle),
    "hamming": (1, _hamming),
    "bicubic": (2, _cubic),
    "lanczos": (3, _lanczos),
}
"""Half the width of each filter, in pixels of the smaller image, and the filter."""
