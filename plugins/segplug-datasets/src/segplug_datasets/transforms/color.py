"""Photometric transforms: they change pixel values, not positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Interval

from segkernel.annotations import NonNegative, NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import DataError, UsageError
from segkernel.image import opencv
from segkernel.sample import Sample
from segplug_datasets.ranges import NonNegativeRange
from segplug_datasets.transforms.distortion import Distortion, lookup

Tiles = Annotated[int, Interval(ge=1, le=1024)]
"""Tiles of an image; OpenCV keeps a table for each."""


class PhotoMetricDistortion:
    """Change brightness, contrast, saturation and hue, each with probability 0.5, contrast before or after the others.

    Works on uint8 RGB through tables of 256 values: brightness and contrast in one pass, saturation and hue in another.

    Args:
        brightness_delta: Highest offset added or subtracted, in grey levels (0 to 255).
        contrast_range: Lowest and highest contrast factor.
        saturation_range: Lowest and highest saturation factor.
        hue_delta: Highest hue shift, in OpenCV's half degrees (18 is 36 degrees).
        on_device: Only draw the parameters, and leave the work to `Preprocessor`, which applies it to whole batches on
            the device before normalising. It must then be the last transform that changes pixel values.

    Raises:
        DataError: When the image is not (H, W, 3) uint8.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar[Any] = ({}, {"on_device": True})

    def __init__(
        self,
        brightness_delta: NonNegativeInt = 32,
        contrast_range: NonNegativeRange = (0.5, 1.5),
        saturation_range: NonNegativeRange = (0.5, 1.5),
        hue_delta: NonNegativeInt = 18,
        on_device: bool = False,
    ) -> None:
        self.brightness_delta, self.contrast_range = brightness_delta, contrast_range
        self.saturation_range, self.hue_delta = saturation_range, hue_delta
        self.on_device = on_device

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        image, distortion = _checked(sample), self._draw(rng)
        if self.on_device:
            sample.device_steps = [*sample.device_steps, distortion]
        else:
            sample.image = distortion(image)
        return sample

    def _draw(self, rng: np.random.Generator) -> Distortion:
        delta = self.brightness_delta
        brightness = rng.uniform(-delta, delta) if rng.integers(2) else 0
        contrast_first = rng.integers(2) == 1
        contrast = rng.uniform(*self.contrast_range) if contrast_first and rng.integers(2) else 1
        saturation = rng.uniform(*self.saturation_range) if rng.integers(2) else None
        hue = int(rng.integers(-self.hue_delta, self.hue_delta)) if rng.integers(2) else None
        after = rng.uniform(*self.contrast_range) if not contrast_first and rng.integers(2) else 1
        return Distortion(brightness, contrast, saturation, hue, after)


class CLAHE:
    """Contrast limited adaptive histogram equalisation, channel by channel (Zuiderveld, 1994).

    Args:
        clip_limit: Contrast limit of a tile's histogram, as OpenCV's ``clipLimit``.
        tile_grid_size: Tiles per row and column.
    """

    needs: ClassVar[int] = 0

    def __init__(self, clip_limit: NonNegative = 40.0, tile_grid_size: tuple[Tiles, Tiles] = (8, 8)) -> None:
        self.clip_limit, self.tile_grid_size = clip_limit, (tile_grid_size[0], tile_grid_size[1])

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        equalize = opencv().createCLAHE(self.clip_limit, self.tile_grid_size).apply
        image = _checked(sample)
        sample.image = np.stack([equalize(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])], 2)
        return sample


class AdjustGamma:
    """Raise values (as fractions of 255) to the power ``1 / gamma``.

    Args:
        gamma: Above 1 brightens, below 1 darkens.

    Raises:
        UsageError: Unless ``gamma`` is positive.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"gamma": 0.7}, {"gamma": 1.5})

    def __init__(self, gamma: Positive = 1.0) -> None:
        if gamma <= 0:
            raise UsageError(f"gamma must be positive, not {gamma}")
        self._values = (np.arange(256) / 255.0) ** (1.0 / gamma) * 255

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        sample.image = lookup(_checked(sample), self._values)
        return sample


class RGB2Gray:
    """Replace the channels by their weighted mean.

    Args:
        out_channels: Number of equal channels of the result; unchanged when None.
        weights: Weights of red, green and blue.
    """

    needs: ClassVar[int] = 0

    def __init__(
        self, out_channels: PositiveInt | None = None, weights: tuple[float, float, float] = (0.299, 0.587, 0.114)
    ) -> None:
        self.out_channels, self.weights = out_channels, np.asarray(weights, np.float32)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        image = _checked(sample)
        grey = (image.astype(np.float32) @ self.weights).round().clip(0, 255).astype(np.uint8)
        sample.image = np.repeat(grey[..., None], self.out_channels or image.shape[2], 2)
        return sample


class RandomCutOut:
    """Cutout: cover random rectangles (DeVries and Taylor, 2017).

    Args:
        prob: Probability of covering anything.
        n_holes: Number of rectangles, or (fewest, most).
        cutout_shape: (width, height) of a rectangle, or several to choose from.
        cutout_ratio: (width, height) as shares of the image, or several to choose from; instead of ``cutout_shape``.
        fill_in: RGB value of the rectangles.
        seg_fill_in: Label of the rectangles in the field ``seg``; labels are unchanged when None.

    Raises:
        UsageError: Unless exactly one of the two ways to state the size is used.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0, "n_holes": 2, "cutout_shape": (16, 16), "seg_fill_in": 255}

    def __init__(
        self,
        prob: Probability,
        n_holes: NonNegativeInt | tuple[NonNegativeInt, NonNegativeInt],
        cutout_shape: tuple[PositiveInt, PositiveInt] | Sequence[tuple[PositiveInt, PositiveInt]] | None = None,
        cutout_ratio: tuple[Probability, Probability] | Sequence[tuple[Probability, Probability]] | None = None,
        fill_in: tuple[float, float, float] = (0, 0, 0),
        seg_fill_in: int | None = None,
    ) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise UsageError("RandomCutOut needs either 'cutout_shape' or 'cutout_ratio'")
        given: Any = cutout_shape if cutout_shape is not None else cutout_ratio
        self.sizes = [tuple(given)] if isinstance(given[0], int | float) else [tuple(size) for size in given]
        self.is_ratio = cutout_ratio is not None
        self.prob, self.fill_in, self.seg_fill_in = prob, fill_in, seg_fill_in
        self.n_holes = (n_holes, n_holes) if isinstance(n_holes, int) else (n_holes[0], n_holes[1])

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        covered, count = rng.random() < self.prob, int(rng.integers(self.n_holes[0], self.n_holes[1] + 1))
        height, width = sample.size
        drawn = [[int(rng.integers(limit)) for limit in (width, height, len(self.sizes))] for _ in range(count)]
        if not covered or not count:
            return sample
        image, labels = sample.image.copy(), sample["seg"].array.copy() if "seg" in sample else None
        for left, top, choice in drawn:
            wide, high = self.sizes[choice]
            tall, broad = (int(high * height), int(wide * width)) if self.is_ratio else (high, wide)
            hole = slice(top, top + int(tall)), slice(left, left + int(broad))
            image[hole] = self.fill_in
            if labels is not None and self.seg_fill_in is not None:
                labels[hole] = self.seg_fill_in
        sample.image = image
        if labels is not None:
            sample["seg"] = replace(sample["seg"], array=labels)
        return sample


def _checked(sample: Sample) -> np.ndarray:
    if sample.image.dtype != np.uint8 or sample.image.ndim != 3 or sample.image.shape[2] != 3:
        message = f"a colour transform needs an image (H, W, 3) uint8, not {sample.image.shape} {sample.image.dtype}"
        raise DataError(message, sample.meta.get("path"))
    return sample.image
