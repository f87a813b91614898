"""Transforms of pixel values: noise, blur, compression, grey, ranges. Fields are unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from segkernel.annotations import Positive, Probability
from segkernel.errors import DataError, UsageError
from segkernel.image import opencv
from segkernel.sample import Sample
from segplug_datasets.ranges import NonNegativeRange
from segplug_datasets.transforms.checks import ordered, probability
from segplug_datasets.transforms.color import RGB2Gray

Quality = Annotated[int, Interval(ge=1, le=100)]
"""Of a JPEG."""


class Rerange:
    """Rescale the image's values linearly to a given range.

    The image becomes float32; one of a single value becomes ``min_value`` everywhere.

    Args:
        min_value: The smallest value afterwards.
        max_value: The largest.

    Raises:
        UsageError: Unless ``min_value`` is below ``max_value``.
    """

    needs: ClassVar[int] = 0

    def __init__(self, min_value: float = 0, max_value: float = 255) -> None:
        if min_value >= max_value:
            raise UsageError(f"min_value {min_value} must be below max_value {max_value}")
        self.min_value, self.max_value = min_value, max_value

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        image = sample.image.astype(np.float32)
        low, high = float(image.min()), float(image.max())
        factor = (self.max_value - self.min_value) / (high - low) if high > low else 0.0
        sample.image = (image - low) * np.float32(factor) + np.float32(self.min_value)
        return sample


class Normalize:
    """Subtract a mean and divide by a standard deviation, per channel; the image becomes float32.

    For custom training loops. Configs use ``data.preprocess``, which does the same on the device and transfers uint8:
    do not use both.

    Args:
        mean: One per channel, in RGB order, in the image's own range (0 to 255).
        std: One per channel, in the same range.

    Raises:
        UsageError: When their numbers differ, or a ``std`` is not positive.
        DataError: When the image has another number of channels.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}

    def __init__(self, mean: Sequence[float], std: Sequence[Positive]) -> None:
        if len(mean) != len(std) or min(std) <= 0:
            raise UsageError(
                f"mean and std must have the same length and std be above 0, not {list(mean)} and {list(std)}"
            )
        self.mean, self.factor = np.asarray(mean, np.float32), 1 / np.asarray(std, np.float32)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if sample.image.shape[2] != len(self.mean):
            message = f"Normalize has {len(self.mean)} means for an image of {sample.image.shape[2]} channels"
            raise DataError(message, sample.meta.get("path"))
        sample.image = (sample.image.astype(np.float32) - self.mean) * self.factor
        return sample


class GaussianBlur:
    """Blur by a Gaussian of random width. Works on images of any type and number of channels.

    Args:
        prob: Probability of blurring.
        sigma: Lowest and highest standard deviation, in pixels.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0, "sigma": (0.1, 0.8)}

    def __init__(self, prob: Probability = 0.5, sigma: NonNegativeRange = (0.1, 2.0)) -> None:
        self.prob, self.sigma = probability(prob), ordered("sigma", sigma, 1e-3)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() < self.prob:
            width, blur = rng.uniform(*self.sigma), opencv().GaussianBlur
            planes = np.split(sample.image, range(4, sample.image.shape[2], 4), 2)
            blurred = [blur(np.ascontiguousarray(part), (0, 0), width).reshape(part.shape) for part in planes]
            sample.image = np.concatenate(blurred, 2)
        return sample


class GaussianNoise:
    """Add independent normal noise to each value. Integer images are rounded and clipped to their dtype's range.

    Args:
        prob: Probability of adding it.
        std: Lowest and highest standard deviation, in the image's own range (0 to 255).

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0}

    def __init__(self, prob: Probability = 0.5, std: NonNegativeRange = (2.0, 12.0)) -> None:
        self.prob, self.std = probability(prob), ordered("std", std, 0)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() < self.prob:
            image, width = sample.image, np.float32(rng.uniform(*self.std))
            noisy = image + rng.standard_normal(image.shape, np.float32) * width
            if image.dtype.kind in "ui":
                limits = np.iinfo(image.dtype)
                noisy = noisy.round().clip(limits.min, limits.max)
            sample.image = noisy.astype(image.dtype)
        return sample


class JPEGCompression:
    """Compress as JPEG with random quality, and decode it.

    Args:
        prob: Probability of applying it.
        quality: Lowest and highest quality, 1 to 100.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When the image is not uint8 of one or three channels.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0, "quality": (60, 90)}

    def __init__(self, prob: Probability = 0.5, quality: tuple[Quality, Quality] = (30, 95)) -> None:
        low, high = ordered("quality", quality, 1)
        if high > 100:
            raise UsageError(f"quality must be at most 100, not {high}")
        self.prob, self.quality = probability(prob), (int(low), int(high))

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if rng.random() >= self.prob:
            return sample
        image, cv2 = sample.image, opencv()
        if image.dtype != np.uint8 or image.shape[2] not in (1, 3):
            message = f"a JPEG holds one or three channels of uint8, not {image.shape[2]} of {image.dtype}"
            raise DataError(message, sample.meta.get("path"))
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
        # OpenCV counts the colours from blue, and JPEG treats them unlike.
        _, file = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(file, cv2.IMREAD_UNCHANGED).reshape(image.shape)
        sample.image = np.ascontiguousarray(decoded[..., ::-1])
        return sample


class RandomGrayscale:
    """Convert to grey; the image keeps three channels.

    Args:
        prob: Probability of applying it.

    Raises:
        UsageError: When ``prob`` is not a probability.
        DataError: When the image is not (H, W, 3) uint8.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0}

    def __init__(self, prob: Probability = 0.1) -> None:
        self.prob, self._gray = probability(prob), RGB2Gray()

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        return self._gray(sample, rng) if rng.random() < self.prob else sample
