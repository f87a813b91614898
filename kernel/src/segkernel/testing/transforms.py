"""Checks of transforms, on blocks of three colours with a label for each, and ignored blocks; no torch."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np

from segkernel.labels import IGNORE
from segkernel.sample import LabelMap, RasterField, Sample
from segkernel.testing.core import Subject, check, require, skip_unless

SEEDS = range(8)
COLORS = np.array([[40, 60, 80], [120, 200, 110], [210, 130, 230], [190, 150, 210]], np.uint8)
LABELS = np.array([0, 3, 7, IGNORE], np.uint8)  # an interpolated label would be another value


@check("transforms", name="fields")
def fields(subject: Subject) -> None:
    """The image stays (H, W, C), and every raster field keeps its size and kind."""
    for seed in SEEDS:
        before, after = _transformed(subject, seed)
        require(isinstance(after, Sample), f"it returned a {type(after).__name__}, not a Sample")
        require(after.image.ndim == 3 and after.image.size, f"the image has the shape {after.image.shape}")
        for name, field in after.fields.items():
            if isinstance(field, RasterField):
                shape = field.array.shape[:2]
                require(shape == after.size, f"field {name!r} has {shape} pixels, the image {after.size}")
        require(isinstance(after["seg"], LabelMap), "field 'seg' is no longer a LabelMap")
        require(set(before) <= set(after), f"it dropped fields: {sorted(set(before) - set(after))}")


@check("transforms", name="moves-together")
def moves_together(subject: Subject) -> None:
    """Each pixel still has the label of its colour: image and label map are transformed together."""
    for seed in SEEDS:
        _, after = _transformed(subject, seed)
        agreement = _agreement(after)
        require(agreement > 0.9, f"with seed {seed} only {agreement:.0%} of the pixels have the label of their colour")


@check("transforms", name="labels")
def labels(subject: Subject) -> None:
    """No new label appears except 255."""
    for seed in SEEDS:
        _, after = _transformed(subject, seed)
        stray = sorted(set(np.unique(after["seg"].array).tolist()) - {*LABELS.tolist(), IGNORE})
        require(not stray, f"new labels {stray} with seed {seed}")
        require(after["seg"].array.dtype == np.uint8, f"labels became {after['seg'].array.dtype}")


@check("transforms", name="reproducible")
def reproducible(subject: Subject) -> None:
    """All randomness comes from the given generator: the same seed returns the same sample."""
    for seed in SEEDS:
        _, first = _transformed(subject, seed)
        random.seed(seed + 1)
        before = random_state()
        _, second = _transformed(subject, seed)
        require(before == random_state(), "it draws from the generators of 'random' or 'numpy.random'; use rng")
        require(np.array_equal(first.image, second.image), f"two images with seed {seed} differ")
        for name, field in first.fields.items():
            same = np.array_equal(field.array, second[name].array)
            require(same, f"field {name!r} differs with the same seed {seed}")


def sample(seed: int, size: tuple[int, int] = (96, 128), block: int = 16) -> Sample:
    """Return an image of random blocks in three colours with their label map; a few have a fourth colour and are
    ignored."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, (size[0] // block, size[1] // block), p=(0.28, 0.28, 0.28, 0.16))
    kinds[0, :3] = 0, 1, 2
    kinds = kinds.repeat(block, 0).repeat(block, 1)
    meta = {"name": f"blocks{seed}", "path": ""}
    return Sample({"seg": LabelMap(LABELS[kinds])}, meta, COLORS[kinds], original_size=size)


def _transformed(subject: Subject, seed: int) -> tuple[Sample, Sample]:
    transform = subject.build()
    require(isinstance(transform.needs, int) and transform.needs >= 0, f"needs is {transform.needs!r}, not a number")
    size = tuple(subject.inputs.get("size", (96, 128)))
    before, *more = (sample(seed + index, size) for index in range(1 + transform.needs))
    after = transform(copy.deepcopy(before), np.random.default_rng(seed), *more)
    skip_unless(after is not None, f"it rejected the sample with seed {seed}")
    return before, after


def _agreement(after: Sample) -> float:
    """Return the share of pixels, away from borders, whose colour is nearest to the median colour of their label."""
    inner = _interior(after["seg"].array)
    present = [label for label in LABELS[:-1] if (inner == label).any()]
    image = after.image.astype(np.float64)
    typical = np.stack([np.median(image[inner == label], axis=0) for label in present]) if present else None
    if typical is None or len(present) < 2:
        return 1.0
    distance = np.linalg.norm(image[..., None, :] - typical, axis=-1)
    nearest = np.array(present)[distance.argmin(-1)]
    known = inner != IGNORE
    apart = len(np.unique(typical.round(3), axis=0)) == len(present)
    return float((nearest == inner)[known].mean()) if apart else 0.0


def _interior(array: np.ndarray, margin: int = 2) -> np.ndarray:
    """Return the labels with those within ``margin`` pixels of another label set to 255."""
    window = 2 * margin + 1
    around = np.lib.stride_tricks.sliding_window_view(np.pad(array, margin, mode="edge"), (window, window))
    return np.where((around == array[..., None, None]).all((2, 3)), array, IGNORE)


def random_state() -> tuple[Any, ...]:
    """Return the states of the generators of `random` and `numpy.random`, comparable."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), np.asarray(keys).tolist(), position
