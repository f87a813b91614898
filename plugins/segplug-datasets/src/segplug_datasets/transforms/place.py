"""Transforms that crop, flip, rotate and pad."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from segkernel.annotations import LabelId, NonNegative, PositiveInt, Probability
from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.labels import IGNORE
from segkernel.sample import MultiLabelMap, Sample
from segplug_datasets import geometry
from segplug_datasets.ranges import Range

Direction = Literal["horizontal", "vertical", "diagonal"]


class RandomCrop:
    """Crop a random window; an image smaller than it keeps its size.

    Args:
        crop_size: (height, width) in pixels, or one number for both.
        cat_max_ratio: A window in which one class covers this share of the labelled pixels or more is redrawn, up to
            ten times; 1 takes the first. Uses the field ``seg``, unless that is a multi-label map.
        ignore_index: Label that does not count as a class.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"crop_size": (64, 80)}, {"crop_size": (256, 256), "cat_max_ratio": 0.75})

    def __init__(
        self,
        crop_size: PositiveInt | tuple[PositiveInt, PositiveInt],
        cat_max_ratio: Probability = 1.0,
        ignore_index: LabelId = IGNORE,
    ) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        if min(self.crop_size) < 1:
            raise UsageError(f"crop_size must be positive, not {crop_size}")
        self.cat_max_ratio, self.ignore_index = cat_max_ratio, ignore_index

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        window = self._draw(sample, rng)
        if self.cat_max_ratio == 1 or "seg" not in sample or isinstance(sample["seg"], MultiLabelMap):
            return sample.apply(window)
        labels = sample["seg"].apply(window, sample.size)  # only the window is resampled
        for _ in range(10):
            if self._is_varied(labels.array):
                break
            window = self._draw(sample, rng)
            labels = sample["seg"].apply(window, sample.size)
        sample.apply(window)["seg"] = labels
        return sample

    def _draw(self, sample: Sample, rng: np.random.Generator) -> geometry.Crop:
        height, width = (min(edge, limit) for edge, limit in zip(sample.size, self.crop_size))
        top = int(rng.integers(sample.size[0] - height + 1))
        left = int(rng.integers(sample.size[1] - width + 1))
        return geometry.Crop(top, left, height, width)

    def _is_varied(self, labels: np.ndarray) -> bool:
        counts = opencv().calcHist([labels], [0], None, [256], [0, 256]).ravel()
        counts[self.ignore_index] = 0
        return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio)


class CenterCrop:
    """Crop the centre; an image smaller than it keeps its size.

    Args:
        crop_size: (width, height) in pixels, or one number for both.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"crop_size": (80, 64)}

    def __init__(self, crop_size: PositiveInt | tuple[PositiveInt, PositiveInt]) -> None:
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        width, height = self.crop_size
        top, left = max(0, round((sample.size[0] - height) / 2)), max(0, round((sample.size[1] - width) / 2))
        height, width = min(height, sample.size[0] - top), min(width, sample.size[1] - left)
        return sample.apply(geometry.Crop(top, left, height, width))


class RandomFlip:
    """Flip image and fields.

    Args:
        prob: Probability of mirroring, shared evenly among the directions; or one for each.
        direction: ``horizontal`` (left and right swap), ``vertical``, ``diagonal`` (both), or several of them.
        swap_seg_labels: Pairs of class ids to swap as well (left arm and right arm) when left and right are mirrored.

    Raises:
        UsageError: When probabilities and directions do not match, or add up to more than 1.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": (0.3, 0.3, 0.3), "direction": ("horizontal", "vertical", "diagonal")}

    def __init__(
        self,
        prob: Probability | Sequence[Probability] = 0.5,
        direction: Direction | Sequence[Direction] = "horizontal",
        swap_seg_labels: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.directions: tuple[Direction, ...] = (direction,) if isinstance(direction, str) else tuple(direction)
        count = len(self.directions)
        self.probs = [prob / count] * count if isinstance(prob, int | float) else list(prob)
        if len(self.probs) != count or min(self.probs) < 0 or sum(self.probs) > 1 + 1e-9:
            raise UsageError(f"RandomFlip cannot split prob {prob} over {count} directions")
        swap = np.arange(256, dtype=np.uint8)
        for left, right in swap_seg_labels:
            swap[[left, right]] = right, left
        self._swap = swap if swap_seg_labels else None

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        place = int(np.searchsorted(np.cumsum(self.probs), rng.random(), side="right"))
        if place == len(self.directions):
            return sample
        sample.apply(geometry.Flip(self.directions[place]))
        if self._swap is not None and self.directions[place] != "vertical" and "seg" in sample:
            labels = sample["seg"].array
            several = isinstance(sample["seg"], MultiLabelMap)  # whose classes are planes
            swapped = labels[..., self._swap[: labels.shape[2]]] if several else self._swap[labels]
            sample["seg"] = replace(sample["seg"], array=swapped)
        return sample


class RandomRotate:
    """Rotate about the centre, or another point.

    Args:
        prob: Probability of rotating.
        degree: Highest angle in degrees to both sides, or (lowest, highest); clockwise.
        pad_val: Fill value of the corners, one or one per channel; labels there become 255.
        center: (x, y) in pixels of the centre of rotation; that of the image when None.
        auto_bound: Enlarge the canvas to hold the whole rotated image.

    Raises:
        UsageError: When both ``center`` and ``auto_bound`` are given.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"prob": 1.0, "degree": 20.0}, {"prob": 1.0, "degree": 45.0, "auto_bound": True})

    def __init__(
        self,
        prob: Probability,
        degree: NonNegative | Range,
        pad_val: float | tuple[float, ...] = 0,
        center: tuple[float, float] | None = None,
        auto_bound: bool = False,
    ) -> None:
        if center is not None and auto_bound:
            raise UsageError("RandomRotate takes 'center' or 'auto_bound', not both")
        self.prob, self.pad_val, self.center, self.auto_bound = prob, pad_val, center, auto_bound
        self.degree = (-degree, degree) if isinstance(degree, int | float) else (min(degree), max(degree))

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        turned, angle = rng.random() < self.prob, math.radians(rng.uniform(*self.degree))
        if not turned:
            return sample
        height, width = sample.size
        # Our origin is the corner of the first pixel, OpenCV's its centre.
        x, y = (width / 2, height / 2) if self.center is None else (self.center[0] + 0.5, self.center[1] + 0.5)
        to, (new_x, new_y) = sample.size, (x, y)
        cos, sin = math.cos(angle), math.sin(angle)
        if self.auto_bound:
            new_width, new_height = height * abs(sin) + width * abs(cos), height * abs(cos) + width * abs(sin)
            to, new_x, new_y = (round(new_height), round(new_width)), new_width / 2, new_height / 2
        turn = np.array([[cos, -sin, new_x - cos * x + sin * y], [sin, cos, new_y - sin * x - cos * y], [0, 0, 1]])
        return sample.apply(geometry.Warp(turn, to, self.pad_val))


class Pad:
    """Add a border at the right and the bottom; labels there become 255.

    Args:
        size: Least (width, height).
        size_divisor: Or: pad height and width to multiples of this.
        pad_to_square: Or: pad to a square first.
        pad_val: Fill value of the border, one or one per channel.

    Raises:
        UsageError: Unless either ``size`` or one of the others is given.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = ({"size": (160, 130)}, {"size_divisor": 50})

    def __init__(
        self,
        size: tuple[PositiveInt, PositiveInt] | None = None,
        size_divisor: PositiveInt | None = None,
        pad_to_square: bool = False,
        pad_val: float | tuple[float, ...] = 0,
    ) -> None:
        if (size is None) == (size_divisor is None and not pad_to_square):
            raise UsageError("Pad needs either 'size', or 'size_divisor' and 'pad_to_square'")
        self.size, self.size_divisor, self.pad_to_square, self.pad_val = size, size_divisor, pad_to_square, pad_val

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        height, width = sample.size
        goal = (self.size[1], self.size[0]) if self.size is not None else (height, width)
        if self.pad_to_square:
            goal = max(goal), max(goal)
        if self.size_divisor is not None:
            goal = tuple(-(-edge // self.size_divisor) * self.size_divisor for edge in goal)  # type: ignore[assignment]
        border = geometry.Pad(bottom=max(goal[0] - height, 0), right=max(goal[1] - width, 0), fill=self.pad_val)
        return sample.apply(border) if border.bottom or border.right else sample
