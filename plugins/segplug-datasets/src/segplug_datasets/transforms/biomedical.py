"""Intensity transforms of scans (batchgenerators, Isensee et al., 2020), for images and volumes.

Scans are floats: the image becomes float32 whether a transform is drawn or not, so that a batch has one type. What a
volume is defined in `segplug_datasets.transforms.volume`.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from segkernel.annotations import NonNegative, Probability
from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.sample import Sample
from segplug_datasets.ranges import NonNegativeRange
from segplug_datasets.transforms.checks import ordered, probability
from segplug_datasets.transforms.volume import as_volume


class BioMedicalGaussianNoise:
    """Add normal noise of random strength.

    Args:
        prob: Probability of adding it.
        mean: Mean of the noise, in the image's own range.
        std: Highest standard deviation, in the image's own range; the lowest is 0.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0, "std": 5.0}

    def __init__(self, prob: Probability = 0.1, mean: float = 0.0, std: NonNegative = 0.1) -> None:
        if std < 0:
            raise UsageError(f"std must be at least 0, not {std}")
        self.prob, self.mean, self.std = probability(prob), mean, std

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        image = sample.image.astype(np.float32)
        if rng.random() < self.prob:
            width = np.float32(rng.uniform(0, self.std))
            image += rng.standard_normal(image.shape, np.float32) * width + np.float32(self.mean)
        sample.image = image
        return sample


class BioMedicalGaussianBlur:
    """Blur by a Gaussian of random width, in all three directions of a volume.

    Args:
        sigma_range: Lowest and highest standard deviation, in voxels.
        prob: Probability of blurring.
        prob_per_channel: Probability for each modality, given that.
        different_sigma_per_channel: Draw a width for each modality, not one for all.
        different_sigma_per_axis: Draw a width for each direction, not one for all.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 1.0, "prob_per_channel": 1.0}

    def __init__(
        self,
        sigma_range: NonNegativeRange = (0.5, 1.0),
        prob: Probability = 0.2,
        prob_per_channel: Probability = 0.5,
        different_sigma_per_channel: bool = True,
        different_sigma_per_axis: bool = True,
    ) -> None:
        self.sigma_range = ordered("sigma_range", sigma_range, 1e-3)
        self.prob, self.prob_per_channel = probability(prob), probability(prob_per_channel)
        self.per_channel, self.per_axis = different_sigma_per_channel, different_sigma_per_axis

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        volume = as_volume(sample).astype(np.float32)
        if rng.random() < self.prob:
            widths = None
            for channel in range(volume.shape[3]):
                if rng.random() < self.prob_per_channel:
                    if widths is None or self.per_channel:
                        widths = self._widths(rng)
                    volume[..., channel] = _blurred(volume[..., channel], widths)
        sample.image = volume.reshape(sample.image.shape)
        return sample

    def _widths(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """Return the widths along z, y and x."""
        z, y, x = rng.uniform(*self.sigma_range, 3)
        return (z, y, x) if self.per_axis else (z, z, z)


class BioMedicalRandomGamma:
    """Gamma-correct values, as shares of the image's range, by a random power; the range stays.

    Args:
        prob: Probability of applying it.
        gamma_range: Lowest and highest power; below 1 and above 1 are as likely where the range has both.
        invert_image: Apply it to the inverted image.
        per_channel: Draw a power for each modality, not one for all.
        retain_stats: Restore the mean and the standard deviation afterwards.

    Raises:
        UsageError: When an argument is out of range.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"prob": 1.0}, {"prob": 1.0, "invert_image": True, "per_channel": True})

    def __init__(
        self,
        prob: Probability = 0.5,
        gamma_range: NonNegativeRange = (0.5, 2.0),
        invert_image: bool = False,
        per_channel: bool = False,
        retain_stats: bool = False,
    ) -> None:
        self.prob, self.gamma_range = probability(prob), ordered("gamma_range", gamma_range, 1e-3)
        self.invert_image, self.per_channel, self.retain_stats = invert_image, per_channel, retain_stats

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        volume = as_volume(sample).astype(np.float32)
        if rng.random() < self.prob:
            volume = -volume if self.invert_image else volume
            parts = np.split(volume, volume.shape[3], 3) if self.per_channel else [volume]
            volume = np.concatenate([self._curved(part, self._gamma(rng)) for part in parts], 3)
            volume = -volume if self.invert_image else volume
        sample.image = volume.reshape(sample.image.shape)
        return sample

    def _gamma(self, rng: np.random.Generator) -> float:
        low, high = self.gamma_range
        darker = rng.random() < 0.5
        if high <= 1 or (low < 1 and darker):
            return float(rng.uniform(low, min(high, 1)))
        return float(rng.uniform(max(low, 1), high))

    def _curved(self, values: np.ndarray, gamma: float) -> np.ndarray:
        low, spread = values.min(), np.ptp(values)
        curved = ((values - low) / (spread + np.float32(1e-7))) ** np.float32(gamma) * spread + low
        if self.retain_stats:
            curved = (curved - curved.mean()) / (curved.std() + np.float32(1e-8)) * values.std() + values.mean()
        return curved


def _blurred(volume: np.ndarray, widths: tuple[float, float, float]) -> np.ndarray:
    """Return a blurred (Y, X, Z) float32; like scipy's ``gaussian_filter``, borders are mirrored."""
    z, y, x = widths
    cv2, border = opencv(), opencv().BORDER_REFLECT
    one = np.ones((1, 1), np.float32)
    planes = [
        cv2.sepFilter2D(np.ascontiguousarray(volume[..., number]), -1, _kernel(x), _kernel(y), borderType=border)
        for number in range(volume.shape[2])
    ]
    stacked = np.stack(planes, 2)
    if stacked.shape[2] == 1:
        return stacked
    return cv2.sepFilter2D(stacked.reshape(-1, stacked.shape[2]), -1, _kernel(z), one, borderType=border).reshape(
        stacked.shape
    )


def _kernel(sigma: float) -> np.ndarray:
    """Return a Gaussian, as wide as four standard deviations to both sides."""
    reach = int(4 * sigma + 0.5)
    places = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-(places**2) / (2 * sigma**2))
    return (weights / weights.sum()).astype(np.float32)
