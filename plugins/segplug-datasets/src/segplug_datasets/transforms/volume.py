"""Volumes: crop, pad and flip in three dimensions, and take slices for 2D nets.

A volume is an ordinary sample. Its slices are stacked in the last axis: a scan of Z slices and C modalities is an image
(Y, X, Z * C), slice by slice, and its labels are a label map (Y, X, Z). So every 2D transform moves all slices equally,
and an image is a volume of one slice. The number of slices is the third axis of the labels, or, without labels of three
axes, ``meta["slices"]``, else 1. Shapes are (Z, Y, X), as in MMSegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE
from segkernel.sample import RasterField, Sample
from segplug_datasets import geometry
from segplug_datasets.transforms.checks import probability

Shape = tuple[int, int, int]
"""Slices, height and width."""


class BioMedical3DRandomCrop:
    """Crop a random block of a volume; a smaller volume keeps its size.

    Args:
        crop_shape: (z, y, x), or one number for all three.
        keep_foreground: Centre the block on a voxel of a class other than 0, classes being equally likely; anywhere
            when there is none. Uses the field ``seg``.

    Raises:
        UsageError: When a length is below 1.
        DataError: When the image's channels are not a multiple of its slices.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"crop_shape": (1, 64, 80)}

    def __init__(self, crop_shape: PositiveInt | Shape, keep_foreground: bool = True) -> None:
        self.crop_shape = _shape(crop_shape)
        self.keep_foreground = keep_foreground

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        shape = shape_of(sample)
        lengths = [min(length, edge) for length, edge in zip(self.crop_shape, shape)]
        middle = self._foreground(sample, rng) if self.keep_foreground and "seg" in sample else None
        if middle is None:
            starts = [int(rng.integers(edge - length + 1)) for edge, length in zip(shape, lengths)]
        else:
            near = zip(middle, lengths, shape)
            starts = [min(max(place - length // 2, 0), edge - length) for place, length, edge in near]
        sample.apply(geometry.Crop(starts[1], starts[2], lengths[1], lengths[2]))
        return with_slices(sample, np.arange(starts[0], starts[0] + lengths[0]))

    def _foreground(self, sample: Sample, rng: np.random.Generator) -> Shape | None:
        labels = np.atleast_3d(sample["seg"].array)
        counts = np.bincount(labels.ravel(), minlength=256)
        counts[[0, IGNORE]] = 0
        classes = np.flatnonzero(counts)
        if not len(classes):
            return None
        places = np.flatnonzero(labels == rng.choice(classes))
        y, x, z = np.unravel_index(places[rng.integers(len(places))], labels.shape)
        return int(z), int(y), int(x)


class BioMedical3DPad:
    """Pad a volume on both sides of each axis; labels there become 255.

    Args:
        pad_shape: Least (z, y, x).
        pad_val: Fill value of the image.

    Raises:
        UsageError: When a length is below 1.
        DataError: When the image's channels are not a multiple of its slices.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"pad_shape": (1, 130, 160)}

    def __init__(self, pad_shape: Shape, pad_val: float = 0.0) -> None:
        self.pad_shape, self.pad_val = _shape(pad_shape), pad_val

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        shape = shape_of(sample)
        added = [max(goal - edge, 0) for goal, edge in zip(self.pad_shape, shape)]
        if added[1] or added[2]:
            top, left = added[1] // 2, added[2] // 2
            sample.apply(geometry.Pad(top, left, added[1] - top, added[2] - left, self.pad_val))
        if added[0]:
            front = added[0] // 2
            numbers = np.arange(-front, shape[0] + added[0] - front)
            with_slices(sample, np.where((numbers < 0) | (numbers >= shape[0]), -1, numbers), self.pad_val)
        return sample


class BioMedical3DRandomFlip:
    """Flip a volume, along each axis independently.

    Args:
        prob: Probability of mirroring, drawn for each direction.
        axes: Axes that may be flipped: 0 for z, 1 for y, 2 for x.
        swap_label_pairs: Pairs of class ids (a left and a right organ) to swap when x is flipped.

    Raises:
        UsageError: When there is no such axis.
        DataError: When the image's channels are not a multiple of its slices.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"prob": 0.5, "axes": (0, 1, 2)}

    def __init__(
        self,
        prob: Probability,
        axes: Sequence[int] = (0, 1, 2),
        swap_label_pairs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        if not set(axes) <= {0, 1, 2}:
            raise UsageError(f"axes are 0 (z), 1 (y) and 2 (x), not {list(axes)}")
        self.prob, self.axes = probability(prob), tuple(axes)
        self._swap = np.arange(256, dtype=np.uint8)
        for left, right in swap_label_pairs or ():
            self._swap[[left, right]] = right, left

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        z, y, x = (axis in self.axes and rng.random() < self.prob for axis in range(3))
        if y or x:
            sample.apply(geometry.Flip("diagonal" if y and x else "vertical" if y else "horizontal"))
        if z:
            with_slices(sample, np.arange(shape_of(sample)[0])[::-1])
        if x and "seg" in sample:
            sample["seg"] = replace(sample["seg"], array=self._swap[sample["seg"].array])
        return sample


class RandomSlice:
    """Take one slice of a volume, for 2D nets; its neighbours become additional channels.

    The image becomes (Y, X, slices * C) and the labels (Y, X), those of the slice in the middle. At the ends the first
    and the last slice are repeated.

    Args:
        slices: Number of slices, odd.

    Raises:
        UsageError: When that is even or below 1.
        DataError: When the image's channels are not a multiple of its slices.
    """

    needs: ClassVar[int] = 0

    def __init__(self, slices: PositiveInt = 1) -> None:
        if slices < 1 or slices % 2 == 0:
            raise UsageError(f"slices must be odd, not {slices}")
        self.reach = slices // 2

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        count = shape_of(sample)[0]
        middle = int(rng.integers(count))
        taken = np.arange(middle - self.reach, middle + self.reach + 1).clip(0, count - 1)
        labels = {name: replace(value, array=value.array[..., middle]) for name, value in _layered(sample).items()}
        with_slices(sample, taken)
        for name, value in labels.items():
            sample[name] = value
        sample.meta["slices"] = 1
        return sample


def shape_of(sample: Sample) -> Shape:
    """Return slices, height and width of a volume.

    Raises:
        DataError: When the image's channels are not a multiple of its slices.
    """
    depths = [value.array.shape[2] for value in (sample[name] for name in sample) if _is_layered(value)]
    count = int(depths[0] if depths else sample.meta.get("slices", 1))
    if count < 1 or sample.image.shape[2] % count:
        message = f"the channels of a volume of {count} slices must be a multiple of that, not {sample.image.shape[2]}"
        raise DataError(message, sample.meta.get("path"))
    return count, *sample.size


def as_volume(sample: Sample) -> np.ndarray:
    """Return the image as (Y, X, Z, C)."""
    count, height, width = shape_of(sample)
    return sample.image.reshape(height, width, count, -1)


def with_slices(sample: Sample, numbers: np.ndarray, pad_val: float = 0.0) -> Sample:
    """Keep the slices ``numbers``, in that order; -1 is an empty one."""
    empty = numbers < 0
    image = as_volume(sample)[:, :, numbers]
    image[:, :, empty] = pad_val
    fields = _layered(sample)
    sample.image = image.reshape(*sample.size, -1)
    for name, value in fields.items():
        array = value.array[..., numbers]
        array[..., empty] = value.fill
        sample[name] = replace(value, array=array)
    if "slices" in sample.meta:
        sample.meta["slices"] = len(numbers)
    return sample


def _layered(sample: Sample) -> dict[str, Any]:
    return {name: sample[name] for name in sample if _is_layered(sample[name])}


def _is_layered(field: Any) -> bool:
    """Whether a field has a value per voxel."""
    return isinstance(field, RasterField) and field.scalar and field.array.ndim == 3


def _shape(given: int | Shape) -> Shape:
    shape = (given, given, given) if isinstance(given, int) else tuple(given)
    if len(shape) != 3 or min(shape) < 1:
        raise UsageError(f"a shape is (z, y, x), each at least 1, not {given}")
    return shape
