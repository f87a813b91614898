"""RandAugment (Cubuk et al., 2020) for images and their masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from segkernel.annotations import NonNegativeInt, PositiveInt, Probability
from segkernel.errors import DataError, UsageError
from segkernel.image import opencv
from segkernel.sample import Sample
from segplug_datasets.geometry import Warp
from segplug_datasets.transforms.checks import probability
from segplug_datasets.transforms.color import RGB2Gray
from segplug_datasets.transforms.warp import Fill, about_center

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # the blur that sharpness is measured from


class RandAugment:
    """Apply a few operations, drawn uniformly from fourteen, all of one strength.

    Identity, AutoContrast, Equalize, Brightness, Color, Contrast, Sharpness, Posterize and Solarize change the image
    only; Rotate, ShearX, ShearY, TranslateX and TranslateY move the image and every field. Ranges are those of
    torchvision: angles up to 30 degrees, shears up to 0.3, shifts up to 150/331 of the edge, factors from 0.1 to 1.9,
    4 bits left, a threshold down to 0; their sign is drawn.

    Args:
        num_ops: Number of operations, one after the other.
        magnitude: Their strength, from 0 to ``num_magnitude_bins`` less 1.
        num_magnitude_bins: Number of strengths; the default is that of the paper.
        pad_val: Fill value of pixels from outside the image, one or one per channel; labels there become 255.
        prob: Probability of applying it.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When the image is not (H, W, 3) uint8.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"num_ops": 1}

    def __init__(
        self,
        num_ops: PositiveInt = 2,
        magnitude: NonNegativeInt = 9,
        num_magnitude_bins: PositiveInt = 31,
        pad_val: Fill = 0,
        prob: Probability = 1.0,
    ) -> None:
        if num_ops < 1:
            raise UsageError(f"num_ops must be at least 1, not {num_ops}")
        if num_magnitude_bins < 2 or not 0 <= magnitude < num_magnitude_bins:
            raise UsageError(f"magnitude is from 0 to {num_magnitude_bins - 1}, not {magnitude}")
        self.num_ops, self.strength = num_ops, magnitude / (num_magnitude_bins - 1)
        self.pad_val, self.prob = pad_val, probability(prob)

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        if sample.image.dtype != np.uint8 or sample.image.shape[2] != 3:
            message = f"RandAugment needs an image (H, W, 3) uint8, not {sample.image.shape} {sample.image.dtype}"
            raise DataError(message, sample.meta.get("path"))
        if rng.random() >= self.prob:
            return sample
        for _ in range(self.num_ops):
            name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
            sign = 1.0 if rng.integers(2) else -1.0
            self.operate(sample, name, sign * self.strength)
        return sample

    def operate(self, sample: Sample, name: str, strength: float) -> None:
        """Change the sample by the operation ``name``; ``strength`` is from -1 to 1, its sign counts where it can."""
        if name in _MOVES:
            linear, (x, y) = _MOVES[name](strength)
            shift = x * sample.size[1], y * sample.size[0]
            sample.apply(Warp(about_center(np.array(linear), sample.size, shift), sample.size, self.pad_val))
        elif name in _COLORS:
            sample.image = _COLORS[name](np.ascontiguousarray(sample.image), strength)


# ---------------------------------------------------------------- what moves pixels: a matrix, and a shift as a share

_STILL = (0.0, 0.0)
_SAME = ((1.0, 0.0), (0.0, 1.0))
_Move = tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]


def _rotate(strength: float) -> _Move:
    cos, sin = math.cos(math.radians(30 * strength)), math.sin(math.radians(30 * strength))
    return ((cos, -sin), (sin, cos)), _STILL


_MOVES: dict[str, Callable[[float], _Move]] = {
    "Rotate": _rotate,
    "ShearX": lambda strength: (((1.0, 0.3 * strength), (0.0, 1.0)), _STILL),
    "ShearY": lambda strength: (((1.0, 0.0), (0.3 * strength, 1.0)), _STILL),
    "TranslateX": lambda strength: (_SAME, (150 / 331 * strength, 0.0)),
    "TranslateY": lambda strength: (_SAME, (0.0, 150 / 331 * strength)),
}


# ---------------------------------------------------------------- what changes colours


def _auto_contrast(image: np.ndarray, strength: float) -> np.ndarray:
    """Stretch each channel over the whole range; one of a single value stays."""
    tables = np.tile(np.arange(256, dtype=np.float32)[:, None], (1, 3))
    for channel in range(3):
        low, high = int(image[..., channel].min()), int(image[..., channel].max())
        if high > low:
            tables[:, channel] = ((tables[:, channel] - low) * (255 / (high - low))).clip(0, 255)
    return _looked_up(image, tables)


def _equalize(image: np.ndarray, strength: float) -> np.ndarray:
    equalize = opencv().equalizeHist
    return np.stack([equalize(np.ascontiguousarray(image[..., channel])) for channel in range(3)], 2)


def _posterize(image: np.ndarray, strength: float) -> np.ndarray:
    dropped = round(4 * abs(strength))
    return image >> dropped << dropped


def _solarize(image: np.ndarray, strength: float) -> np.ndarray:
    values = np.arange(256)
    return _looked_up(image, np.where(values < 255 * (1 - abs(strength)), values, 255 - values)[:, None])


def _brightness(image: np.ndarray, strength: float) -> np.ndarray:
    return _blended(image, np.zeros_like(image), strength)


def _color(image: np.ndarray, strength: float) -> np.ndarray:
    return _blended(image, RGB2Gray()(Sample(image=image), np.random.default_rng(0)).image, strength)


def _contrast(image: np.ndarray, strength: float) -> np.ndarray:
    mean = round(float(image.reshape(-1, 3).mean(0) @ _GREY))
    return _blended(image, np.full_like(image, mean), strength)


def _sharpness(image: np.ndarray, strength: float) -> np.ndarray:
    return _blended(image, opencv().filter2D(image, -1, _SMOOTH, borderType=opencv().BORDER_REPLICATE), strength)


def _blended(image: np.ndarray, without: np.ndarray, strength: float) -> np.ndarray:
    """Blend with, or away from, a degenerate image: factors 0.1 to 1.9."""
    factor = 1 + 0.9 * strength
    return opencv().addWeighted(image, factor, without, 1 - factor, 0)


def _looked_up(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Return the image through tables (256, 1 or 3)."""
    return opencv().LUT(image, np.broadcast_to(tables, (256, 3)).astype(np.uint8)[None])


_COLORS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "AutoContrast": _auto_contrast,
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Equalize": _equalize,
    "Posterize": _posterize,
    "Sharpness": _sharpness,
    "Solarize": _solarize,
}
OPERATIONS = ("Identity", *_MOVES, *_COLORS)
