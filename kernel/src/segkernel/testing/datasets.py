"""Checks of data sets; no torch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from segkernel import image
from segkernel.labels import IGNORE
from segkernel.sample import LabelMap, MultiLabelMap, RasterField, Sample
from segkernel.testing.core import Subject, check, require, skip_unless
from segkernel.testing.transforms import sample as blocks

LOOKED_AT = 3
"""Number of samples that each check reads."""


@check("datasets", name="length")
def length(subject: Subject) -> None:
    """It has samples, and an index past the last raises IndexError."""
    dataset = subject.build()
    count = len(dataset)
    require(count > 0, "the example has no samples")
    try:
        dataset[count]
    except IndexError:
        return
    require(False, f"index {count} of {count} samples does not raise IndexError")


@check("datasets", name="classes")
def classes(subject: Subject) -> None:
    """Class names are distinct, and there is one RGB colour for each."""
    dataset = subject.build()
    names, palette = list(dataset.classes), list(dataset.palette)
    require(names and all(isinstance(name, str) for name in names), f"classes are not names: {names}")
    require(len(set(names)) == len(names), "two classes have the same name")
    require(len(palette) == len(names), f"{len(names)} classes, but {len(palette)} colours")
    for color in palette:
        require(len(color) == 3 and all(0 <= int(part) <= 255 for part in color), f"{color} is not an RGB colour")


@check("datasets", name="samples")
def samples(subject: Subject) -> None:
    """Images are (H, W, C); the label map has the same size and contains class ids and 255 only."""
    dataset = subject.build()
    for index in _indices(dataset):
        sample = dataset[index]
        require(isinstance(sample, Sample), f"sample {index} is a {type(sample).__name__}, not a Sample")
        require(sample.image.ndim == 3, f"image {index} has the shape {sample.image.shape}, not (H, W, C)")
        wide = sample.image.dtype == np.float64
        require(not wide, f"image {index} is float64; use uint8, or float32 where 8 bits are too few")
        for name, field in sample.fields.items():
            if isinstance(field, RasterField):
                same = field.array.shape[:2] == sample.size
                require(same, f"field {name!r} of sample {index} is {field.array.shape[:2]}, the image {sample.size}")
        _check_labels(sample.get("seg"), len(dataset.classes), index)


@check("datasets", name="colours")
def colours(subject: Subject) -> None:
    """Images have the colours of their files, ``meta["path"]``, with red first."""
    dataset = subject.build()
    sample = dataset[0]
    path = Path(str(sample.meta.get("path", "")))
    is_image = path.suffix.lower() in (".png", ".jpg", ".jpeg") and path.is_file()
    skip_unless(is_image, "its samples have no image path in meta['path']")
    pixels = image.read(path)
    swapped = np.array_equal(sample.image, pixels[..., ::-1]) and not np.array_equal(sample.image, pixels)
    require(not swapped, f"the image is {path.name} with blue first: OpenCV reads BGR, use segkernel.image.read")


@check("datasets", name="repeatable")
def repeatable(subject: Subject) -> None:
    """A sample read twice is the same, even if the first is modified in place, as transforms do."""
    dataset = subject.build()
    for index in _indices(dataset):
        first = dataset[index]
        kept = _arrays(first)
        for array in _arrays(first, copy=False).values():
            if array.flags.writeable:
                array[...] = 1
        require(_same(kept, _arrays(dataset[index])), f"sample {index} differs when read again")


@check("datasets", name="pickle")
def pickles(subject: Subject) -> None:
    """It can be pickled, as data-loader workers need."""
    dataset = subject.build()
    again = pickle.loads(pickle.dumps(dataset))
    require(len(again) == len(dataset), "the copy has another length")
    require(_same(_arrays(dataset[0]), _arrays(again[0])), "sample 0 of the copy differs")


@check("samplers", name="repeatable")
def sampler_repeatable(subject: Subject) -> None:
    """An epoch has one draw per sample, all of valid indices, and the same ones at each call."""
    drawn, both = subject.build(), _Blocks(map(blocks, range(12)))
    both.datasets = _Blocks(both[:6]), _Blocks(both[6:])
    for epoch in (0, 1, 0):
        first, second = (s.order(both, 7, epoch, 4) for s in (drawn, subject.build()))
        require(len(first) == 12, f"epoch {epoch} has {len(first)} draws of 12 samples")
        require(set(map(int, first)) <= set(range(12)), f"epoch {epoch} draws indices out of range")
        require(list(first) == list(second), f"epoch {epoch} depends on more than its arguments")


class _Blocks(list[Sample]):
    """Samples to draw."""

    classes, palette = tuple("abcdefgh"), ((0, 0, 0),) * 8
    datasets: tuple[list[Sample], ...] = ()


def _check_labels(field: Any, count: int, index: int) -> None:
    skip_unless(field is not None, "no label map: a set without annotations")
    require(isinstance(field, LabelMap), f"field 'seg' of sample {index} is a {type(field).__name__}, not a LabelMap")
    require(field.array.dtype == np.uint8, f"the label map of sample {index} is {field.array.dtype}, not uint8")
    fits = field.array.shape[2:] == ((count,) if isinstance(field, MultiLabelMap) else ())
    require(fits and field.array.ndim > 1, f"the label map of sample {index} has the shape {field.array.shape}")
    stray = sorted(set(np.unique(field.array).tolist()) - {*range(count if field.array.ndim == 2 else 2), IGNORE})
    require(not stray, f"sample {index} has labels {stray}, which are neither of the {count} classes nor {IGNORE}")


def _indices(dataset: Any) -> range:
    return range(min(len(dataset), LOOKED_AT))


def _arrays(sample: Sample, copy: bool = True) -> dict[str, np.ndarray]:
    arrays = {"": sample.image, **{name: field.array for name, field in sample.fields.items()}}
    return {name: array.copy() for name, array in arrays.items()} if copy else arrays


def _same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
