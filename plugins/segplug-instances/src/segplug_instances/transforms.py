"""Resizing as Detectron, detectron2 and torchvision do it: the new size of an image, and how its pixels are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from segkernel.annotations import PositiveInt
from segkernel.errors import UsageError
from segkernel.geometry import LINEAR, Geometry, Size
from segkernel.image import opencv
from segkernel.sample import Sample
from segplug_instances.conventions import Convention, ConventionName, convention_of


class DetectionResize:
    """Scale an image, keeping its aspect ratio, so that its shorter edge gets a given length.

    Detectron and torchvision interpolate numbers with fractions, so that the image becomes float32; detectron2 keeps
    its type. Labels and masks get the nearest pixel.

    Args:
        short: Pixels of the shorter edge, or several numbers, of which each sample gets one at random.
        max_size: Limit of the longer edge in pixels, before which the shorter one gives way.
        convention: Whose rounding and interpolation: see ``resize`` in `segplug_instances.conventions`.

    Raises:
        UsageError: When there is no length, or one is below 1.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = (
        {"short": 64, "max_size": 80},
        {"short": [48, 64], "convention": "detectron"},
        {"short": 64, "convention": "detectron2"},
    )

    def __init__(
        self,
        short: PositiveInt | Sequence[PositiveInt] = 800,
        max_size: PositiveInt | None = 1333,
        convention: ConventionName = "torchvision",
    ) -> None:
        self.short = [short] if isinstance(short, int) else list(short)
        if not self.short or min(*self.short, max_size or 1) < 1:
            raise UsageError(f"DetectionResize needs lengths of 1 pixel or more, not {short} and {max_size}")
        self.max_size, self.convention = max_size, convention_of(convention)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        short = self.short[int(rng.integers(len(self.short)))] if len(self.short) > 1 else self.short[0]
        return sample.apply(
            _Resize(*resized(sample.size, short, self.max_size, self.convention), self.convention.resize)
        )


def resized(size: Size, short: int, max_size: int | None, convention: Convention) -> tuple[Size, float]:
    """Return the new (height, width) of an image of ``size``, and the factor before rounding."""
    limit, factor = max_size or np.inf, short / min(size)
    if convention.resize == "detectron":
        factor = limit / max(size) if round(factor * max(size)) > limit else factor
        edges = [round(edge * factor) for edge in size]
    elif convention.resize == "pillow":  # in two steps, whose rounding errors decide about halves
        scaled = [float(short) if edge == min(size) else edge * factor for edge in size]
        again = limit / max(scaled) if max(scaled) > limit else 1.0
        edges, factor = [int(edge * again + 0.5) for edge in scaled], factor * again
    else:
        factor = min(factor, limit / max(size))
        edges = [int(edge * factor) for edge in size]
    return (max(1, edges[0]), max(1, edges[1])), factor


@dataclass(frozen=True)
class _Resize(Geometry):
    only_scales: ClassVar[bool] = True

    to: Size
    factor: float
    rule: str

    def size(self, size: Size) -> Size:
        return self.to

    def matrix(self, size: Size) -> np.ndarray:
        if self.rule == "detectron":
            return np.diag([self.factor, self.factor, 1.0])
        return np.diag([self.to[1] / size[1], self.to[0] / size[0], 1.0])

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        if interpolation != LINEAR:
            rows, columns = (np.arange(new) * old // new for new, old in zip(self.to, array.shape))
            return array[rows[:, None], columns]
        if self.rule == "pillow" and array.dtype == np.uint8:
            return _pillow(_pillow(array, self.to[1], 1), self.to[0], 0)
        values, cv2 = array.astype(np.float32, copy=False), opencv()
        if self.rule == "detectron":
            found = cv2.resize(values, None, fx=self.factor, fy=self.factor, interpolation=cv2.INTER_LINEAR)
        else:
            found = cv2.resize(values, self.to[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(found).reshape(*self.to, *array.shape[2:])


_BITS = 22  # of the fractions of Pillow's weights


def _pillow(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resize one axis of a uint8 array (H, W, C) as Pillow's bilinear filter does, to the bit.

    Each value is a mean of its neighbourhood, as wide as a new pixel where the image shrinks. Weights and sums are
    integers.
    """
    old = array.shape[axis]
    if old == length:
        return array
    scale = old / length
    reach = max(scale, 1.0)
    centers = (np.arange(length) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(int), 0)
    last = np.minimum((centers + reach + 0.5).astype(int), old)
    places = first[:, None] + np.arange((last - first).max())
    weights = np.maximum(1 - np.abs((places - centers[:, None] + 0.5) * (1 / reach)), 0) * (places < last[:, None])
    weights = weights / np.cumsum(weights, 1)[:, -1:]  # added from left to right, as there
    weights = (weights * (1 << _BITS) + 0.5).astype(np.int32)
    shape = [length if number == axis else 1 for number in range(array.ndim)]
    total = np.full([*array.shape[:axis], length, *array.shape[axis + 1 :]], 1 << (_BITS - 1), np.int32)
    for tap in range(places.shape[1]):
        taken = np.take(array, np.minimum(places[:, tap], old - 1), axis)
        total += taken * weights[:, tap].reshape(shape)
    return (total >> _BITS).clip(0, 255).astype(np.uint8)
