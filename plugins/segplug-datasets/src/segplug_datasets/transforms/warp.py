"""Transforms that warp: affine, quarter turns, perspective, elastic.

Pixels from outside the image get the label 255 and the colour ``pad_val``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.errors import DataError, UsageError
from segkernel.image import opencv
from segkernel.sample import Geometry, Sample, Size
from segplug_datasets import geometry
from segplug_datasets.ranges import NonNegativeRange, Range
from segplug_datasets.transforms.checks import probability

Fill = float | tuple[float, ...]


@dataclass(frozen=True)
class QuarterTurn(Geometry):
    """Turn by ``count`` times 90 degrees, counter-clockwise; no pixel is interpolated."""

    count: int

    def size(self, size: Size) -> Size:
        return (size[1], size[0]) if self.count % 2 else size

    def matrix(self, size: Size) -> np.ndarray:
        height, width = size
        rows = {
            0: [[1, 0, 0], [0, 1, 0]],
            1: [[0, 1, 0], [-1, 0, width]],
            2: [[-1, 0, width], [0, -1, height]],
            3: [[0, -1, height], [1, 0, 0]],
        }
        return np.array([*rows[self.count % 4], [0, 0, 1]], float)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        return np.rot90(array, self.count)


@dataclass(frozen=True)
class Bend(Geometry):
    """A continuous deformation of an image that keeps its size.

    Args:
        source: (H, W, 2) float32, the source coordinates (x, y) of each resulting pixel's centre.
        forward: Maps points (..., 2) of the image to the result.
        fill: Fill value of pixels from outside the image.
    """

    bends: ClassVar[bool] = True

    source: np.ndarray
    forward: Callable[[np.ndarray], np.ndarray]
    fill: Fill = 0

    def size(self, size: Size) -> Size:
        return size

    def matrix(self, size: Size) -> np.ndarray:
        raise DataError("a nonlinear warp has no matrix: a field's 'apply' must use 'geometry.move'")

    def move(self, points: np.ndarray, size: Size) -> np.ndarray:
        return self.forward(points)

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        channels = array.shape[2] if array.ndim == 3 else 1
        fills = np.broadcast_to(np.asarray(fill, np.float64), channels)
        bent = np.empty(array.shape, array.dtype)
        planes, whole = bent.reshape(*array.shape[:2], channels), array.reshape(*array.shape[:2], channels)
        ready = whole if whole.dtype.name in _REMAPPED else whole.astype(np.float64)
        x, y = (np.ascontiguousarray(self.source[..., axis] - np.float32(0.5)) for axis in (0, 1))  # OpenCV's centres
        for first in range(0, channels, 4):
            part = slice(first, first + 4)
            found = opencv().remap(
                np.ascontiguousarray(ready[..., part]), x, y, interpolation, borderValue=tuple(fills[part])
            )
            planes[..., part] = found.reshape(planes[..., part].shape)
        return bent


_REMAPPED = ("uint8", "uint16", "int16", "float32", "float64")


def about_center(linear: np.ndarray, size: Size, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Return the (3, 3) matrix of a (2, 2) linear map about the image's centre, which is shifted by (x, y) pixels."""
    middle = np.array([size[1] / 2, size[0] / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = middle - linear @ middle + shift
    return matrix


# ---------------------------------------------------------------- transforms


class RandomRotFlip:
    """Rotate by a small angle, or else by quarter turns and a flip.

    A quarter turn swaps height and width: use it with square crops, or crop afterwards.

    Args:
        rotate_prob: Probability of rotating by an angle of ``degree`` about the centre.
        flip_prob: Probability of zero to three quarter turns and a vertical or horizontal flip, when not rotated.
        degree: Highest angle in degrees to both sides, or (lowest, highest); clockwise.

    Raises:
        UsageError: When a probability is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"rotate_prob": 0.5, "flip_prob": 1.0}, {"rotate_prob": 0.0, "flip_prob": 1.0})

    def __init__(
        self, rotate_prob: Probability = 0.5, flip_prob: Probability = 0.5, degree: NonNegative | Range = (-20, 20)
    ) -> None:
        self.rotate_prob, self.flip_prob = probability(rotate_prob), probability(flip_prob)
        self.degree = (-degree, degree) if isinstance(degree, int | float) else (min(degree), max(degree))

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() < self.rotate_prob:
            angle = math.radians(rng.uniform(*self.degree))
            return sample.apply(geometry.Warp(about_center(_turn(angle), sample.size), sample.size))
        if rng.random() < self.flip_prob:
            sample.apply(QuarterTurn(int(rng.integers(4))))
            sample.apply(geometry.Flip("horizontal" if rng.integers(2) else "vertical"))
        return sample


class RandomAffine:
    """Rotate, scale, shear and translate about the centre, in one resampling; the size stays. Arguments are mmdet's.

    Args:
        max_rotate_degree: Highest angle in degrees to both sides.
        max_translate_ratio: Highest translation, as a share of width and height.
        scaling_ratio_range: Lowest and highest factor.
        max_shear_degree: Highest shear angle in degrees, along both axes.
        pad_val: Fill value of pixels from outside the image, one or one per channel; labels there become 255.
        prob: Probability of applying it.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"max_rotate_degree": 20.0, "max_shear_degree": 10.0}

    def __init__(
        self,
        max_rotate_degree: NonNegative = 10.0,
        max_translate_ratio: Probability = 0.1,
        scaling_ratio_range: NonNegativeRange = (0.5, 1.5),
        max_shear_degree: NonNegative = 2.0,
        pad_val: Fill = 0,
        prob: Probability = 1.0,
    ) -> None:
        if min(scaling_ratio_range) <= 0:
            raise UsageError(f"factors are above 0, unlike scaling_ratio_range {scaling_ratio_range}")
        if not 0 <= max_translate_ratio <= 1:
            raise UsageError(f"max_translate_ratio is from 0 to 1, not {max_translate_ratio}")
        if not 0 <= max_shear_degree < 45:
            raise UsageError(f"max_shear_degree is from 0 to less than 45, not {max_shear_degree}")
        self.max_rotate_degree, self.max_translate_ratio = max_rotate_degree, max_translate_ratio
        self.scaling_ratio_range, self.max_shear_degree = scaling_ratio_range, max_shear_degree
        self.pad_val, self.prob = pad_val, probability(prob)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() >= self.prob:
            return sample
        angle = math.radians(rng.uniform(-self.max_rotate_degree, self.max_rotate_degree))
        factor = rng.uniform(*self.scaling_ratio_range)
        x, y = (math.tan(math.radians(rng.uniform(-self.max_shear_degree, self.max_shear_degree))) for _ in range(2))
        shares = rng.uniform(-self.max_translate_ratio, self.max_translate_ratio, 2)
        shift = shares[0] * sample.size[1], shares[1] * sample.size[0]
        linear = np.array([[1, x], [y, 1]]) @ _turn(angle) * factor
        return sample.apply(geometry.Warp(about_center(linear, sample.size, shift), sample.size, self.pad_val))


class RandomPerspective:
    """Random perspective: the four corners move inwards at random, as in torchvision.

    Args:
        distortion_scale: Farthest a corner moves, as a share of half the width and half the height; from 0 to 1.
        prob: Probability of applying it.
        pad_val: Fill value of pixels from outside the image, one or one per channel; labels there become 255.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0}

    def __init__(self, distortion_scale: Probability = 0.5, prob: Probability = 0.5, pad_val: Fill = 0) -> None:
        if not 0 <= distortion_scale <= 1:
            raise UsageError(f"distortion_scale is from 0 to 1, not {distortion_scale}")
        self.distortion_scale, self.prob, self.pad_val = distortion_scale, probability(prob), pad_val

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() >= self.prob:
            return sample
        height, width = sample.size
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        inwards = np.sign(np.array([width / 2, height / 2]) - corners)
        # Not all the way: corners that meet in the middle would leave no image.
        reach = np.array([width, height]) / 2 * min(self.distortion_scale, 0.99)
        moved = (corners + inwards * rng.uniform(0, 1, (4, 2)) * reach).astype(np.float32)
        matrix = opencv().getPerspectiveTransform(corners, moved)
        source = _projected(np.linalg.inv(matrix).astype(np.float32), _centers(sample.size))
        return sample.apply(Bend(source, lambda points: _projected(matrix, points), self.pad_val))


class ElasticTransform:
    """Elastic deformation (Simard et al., 2003; Ronneberger et al., U-Net, 2015).

    Each pixel is displaced by random numbers from -1 to 1, smoothed with a Gaussian of ``sigma`` pixels and multiplied
    by ``alpha``. With ``grid``, as U-Net has it: the points of a coarse grid are displaced by normal draws of
    ``alpha`` pixels, all others in between; U-Net's are ``alpha`` 10 and ``grid`` 3. That is much faster than a large
    ``sigma``. A point of the grid moves by a quarter of the grid's spacing at most, which keeps the image from folding;
    without ``grid`` an ``alpha`` above about 30 times ``sigma`` folds it, and boxes and keypoints become inexact.

    Args:
        prob: Probability of applying it.
        alpha: Strength of the displacement; with ``grid``, its standard deviation in pixels.
        sigma: Standard deviation of the smoothing in pixels; unused with ``grid``.
        grid: Points per row and column of the grid.
        pad_val: Fill value of pixels from outside the image, one or one per channel; labels there become 255.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When a sample has a field that moves by a matrix only.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"prob": 1.0}, {"prob": 1.0, "alpha": 10.0, "grid": 3})

    def __init__(
        self,
        prob: Probability = 0.5,
        alpha: NonNegative = 50.0,
        sigma: NonNegative = 5.0,
        grid: PositiveInt | None = None,
        pad_val: Fill = 0,
    ) -> None:
        if sigma <= 0 or alpha < 0:
            raise UsageError(f"sigma must be above 0 and alpha at least 0, not {sigma} and {alpha}")
        if grid is not None and grid < 2:
            raise UsageError(f"grid must be at least 2 points per row, not {grid}")
        self.prob, self.alpha, self.sigma, self.grid = probability(prob), alpha, sigma, grid
        self.pad_val = pad_val

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() >= self.prob:
            return sample
        shifts = self._displacements(sample.size, rng)
        source = _centers(sample.size) + shifts
        return sample.apply(Bend(source, lambda points: _followed(points, shifts), self.pad_val))

    def _displacements(self, size: Size, rng: np.random.Generator) -> np.ndarray:
        """Return the displacement (x, y) of each pixel's source, (H, W, 2) float32."""
        if self.grid is not None:
            limit = min(size) / self.grid / 4  # more would fold the image
            coarse = rng.normal(0, self.alpha, (self.grid, self.grid, 2)).clip(-limit, limit).astype(np.float32)
            return opencv().resize(coarse, (size[1], size[0]), interpolation=opencv().INTER_CUBIC)
        noise = rng.uniform(-1, 1, (*size, 2)).astype(np.float32)
        # Zero outside: a mirrored border would displace images thinner than sigma far more than others.
        smooth = opencv().GaussianBlur(noise, (0, 0), self.sigma, borderType=opencv().BORDER_CONSTANT)
        return smooth.reshape(*size, 2) * np.float32(self.alpha)


def _followed(points: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Move points (..., 2) as an image in which each pixel takes its value from itself plus its shift.

    ``q`` with ``q + shift(q) = p`` is found by fixed-point iteration, for an image that is not folded.
    """
    places = np.asarray(points, np.float64)
    for _ in range(20):
        places = points - _between(shifts, places)
    return places


def _between(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Interpolate (H, W, 2) linearly at points (..., 2), with a replicated border."""
    last = np.array([values.shape[1], values.shape[0]]) - 1
    places = (points - 0.5).clip(0, last)
    low = places.astype(int)
    high = np.minimum(low + 1, last)
    x, y = (places - low)[..., :1], (places - low)[..., 1:]
    top = values[low[..., 1], low[..., 0]] * (1 - x) + values[low[..., 1], high[..., 0]] * x
    bottom = values[high[..., 1], low[..., 0]] * (1 - x) + values[high[..., 1], high[..., 0]] * x
    return top * (1 - y) + bottom * y


def _projected(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points (..., 2) moved by a (3, 3) matrix; those behind the eye go far outside."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    depth = moved[..., 2:]
    return np.where(depth > 1e-6, moved[..., :2] / np.maximum(depth, 1e-6), np.asarray(-1e4, moved.dtype))


def _centers(size: Size) -> np.ndarray:
    """Return (H, W, 2) float32, (x, y) of the middle of each pixel."""
    x, y = np.meshgrid(np.arange(size[1], dtype=np.float32), np.arange(size[0], dtype=np.float32))
    return np.stack([x, y], -1) + np.float32(0.5)


def _turn(angle: float) -> np.ndarray:
    """Return the (2, 2) matrix of a clockwise turn, in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])
