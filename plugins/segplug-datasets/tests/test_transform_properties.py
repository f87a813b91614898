"""What holds for every transform of the package, whatever the image's size and the generator's seed.

Transforms are found through their entry points and built from their conformance examples, so that a new one is covered
at once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segkernel import build
from segkernel.catalog import Catalog
from segkernel.errors import ConfigError, SegKernelError
from segkernel.sample import DepthMap, LabelMap, RasterField, Sample, WeightMap
from segkernel.testing import transforms as kit
from segplug_datasets.fields import Boxes, EdgeMap, InstanceMasks, Keypoints, ObjectValues, Polygons

LABELS = {3, 7, 9}
DTYPES = {
    LabelMap: "uint8",
    WeightMap: "float32",
    EdgeMap: "uint8",
    DepthMap: "float32",
    InstanceMasks: "uint8",
    Boxes: "float32",
    Keypoints: "float32",
    Polygons: "float32",
    ObjectValues: "int64",
}
COARSE = ("SegRescale",)
"""Changes labels without moving the image: that is its purpose."""


def cases() -> list[Any]:
    catalog = Catalog.discover()
    found = []
    for row in sorted(catalog.rows, key=lambda row: row.name):
        if (row.group, row.distribution) == ("transforms", "segplug-datasets"):
            target = catalog.load("transforms", row.qualified)
            examples = getattr(target, "conformance", {})
            for number, arguments in enumerate([examples] if isinstance(examples, dict) else examples):
                found.append(pytest.param(row.qualified, number, id=f"{row.name}-{number}"))
                EXAMPLES[row.qualified, number] = dict(arguments)
    return found


EXAMPLES: dict[tuple[str, int], dict[str, Any]] = {}
CASES = cases()
every_transform = pytest.mark.parametrize(("name", "number"), CASES)
few = settings(max_examples=6, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@functools.cache
def built(name: str, number: int) -> Any:
    try:
        return build("transforms", {"type": name, **EXAMPLES[name, number]})
    except ConfigError as error:
        if "albumentations" not in str(error):
            raise
        return None


def made(seed: int, size: tuple[int, int]) -> Sample:
    """A sample with a field of every kind; its two objects are full rectangles with a key point in the middle."""
    rng = np.random.default_rng(seed)
    height, width = size
    masks, boxes, points = np.zeros((*size, 2), np.uint8), [], []
    for number in range(2):
        top, left = (int(rng.integers(edge)) for edge in size)
        bottom, right = int(rng.integers(top, height)) + 1, int(rng.integers(left, width)) + 1
        masks[top:bottom, left:right, number] = 1
        boxes.append([left, top, right, bottom])
        points.append([[(left + right) / 2, (top + bottom) / 2, 2]])
    fields = {
        "seg": LabelMap(rng.choice(np.array([3, 7, 9, 255], np.uint8), size)),
        "weight": WeightMap(rng.uniform(0.5, 2, size).astype(np.float32)),
        "edge": EdgeMap(rng.integers(0, 2, size).astype(np.uint8)),
        "depth": DepthMap(rng.uniform(1, 80, size).astype(np.float32)),
        "masks": InstanceMasks(masks),
        "boxes": Boxes(np.array(boxes, np.float32)),
        "keypoints": Keypoints(np.array(points, np.float32)),
        "polygons": Polygons.of([[np.array([[x, y], [u, y], [u, v], [x, v]])] for x, y, u, v in boxes]),
        "classes": ObjectValues(np.array([9, 3])),
    }
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Sample(fields, {"name": "made"}, image, original_size=size)


def inputs(name: str, number: int, seed: int, size: tuple[int, int]) -> tuple[Any, list[Sample]]:
    """Return a transform and the samples it takes; further ones have other sizes."""
    transform = built(name, number)
    if transform is None:
        pytest.skip("albumentations is missing")
    others = [(max(1, size[0] + 13 * k - 20), size[1] + 9 * k) for k in range(transform.needs)]
    samples = [made(seed + k, one) for k, one in enumerate([size, *others])]
    if type(transform).__name__ == "Albu":  # it moves what has a value per pixel only
        for key in ("boxes", "keypoints", "polygons", "classes"):
            del samples[0][key]
    return transform, samples


def changed(transform: Any, samples: list[Sample], seed: int) -> Sample | None:
    """Return what the transform makes of the samples; None for an error of ours, which is an answer too."""
    with contextlib.suppress(SegKernelError):
        return transform(samples[0], np.random.default_rng(seed), *samples[1:])
    return None


@every_transform
@given(seed=seeds, size=sizes)
@example(seed=0, size=(1, 1))
@example(seed=1, size=(1, 7))
@example(seed=2, size=(5, 1))
@few
def test_any_size_returns_a_complete_sample_or_raises_one_error(
    name: str, number: int, seed: int, size: tuple[int, int]
) -> None:
    after = changed(*inputs(name, number, seed, size), seed)
    if after is None:
        return
    assert after.image.ndim == 3
    assert after.image.size
    assert after.size == after.image.shape[:2]
    assert after.image.dtype in (np.uint8, np.float32)
    for key in after:
        assert after[key].array.dtype == DTYPES[type(after[key])], key
        if isinstance(after[key], RasterField):
            assert after[key].array.shape[:2] == after.size, key
    assert set(np.unique(after["seg"].array).tolist()) <= LABELS | {255}


@every_transform
@given(seed=seeds, size=sizes)
@few
def test_objects_keep_mask_box_and_point_together(name: str, number: int, seed: int, size: tuple[int, int]) -> None:
    after = changed(*inputs(name, number, seed, size), seed)
    if after is None or "boxes" not in after:
        return
    masks, boxes, points = (after[key].array for key in ("masks", "boxes", "keypoints"))
    assert masks.shape[2] == len(boxes) == len(points) == len(after["classes"].array)
    outlined = after["polygons"].masks(after.size)
    assert outlined.shape == masks.shape
    for mask, drawn in zip(np.moveaxis(masks, 2, 0), np.moveaxis(outlined, 2, 0)):
        if mask.sum() > 50:  # the same pixels, but for those that nearest sampling may shift
            assert (mask & ~cv2.dilate(drawn, np.ones((5, 5), np.uint8))).sum() <= 0.1 * mask.sum()
            assert (drawn & ~cv2.dilate(mask, np.ones((5, 5), np.uint8))).sum() <= 0.1 * mask.sum()
    height, width = after.size
    assert (boxes >= 0).all()
    assert (boxes <= [width, height, width, height]).all()
    for mask, (left, top, right, bottom), point in zip(masks.transpose(2, 0, 1), boxes, points):
        rows, columns = np.nonzero(mask)
        if len(rows):  # within the box, but for the pixel that nearest sampling may shift
            assert columns.min() >= left - 1.5
            assert columns.max() + 1 <= right + 1.5
            assert rows.min() >= top - 1.5
            assert rows.max() + 1 <= bottom + 1.5
        x, y, visible = point[0]
        assert not visible or (0 <= x < width and 0 <= y < height)
        if visible == 2 and len(rows):
            assert left - 1 <= x <= right + 1
            assert top - 1 <= y <= bottom + 1


@every_transform
@given(seed=seeds, size=sizes)
@few
def test_equal_generators_give_equal_samples_also_after_pickling(
    name: str, number: int, seed: int, size: tuple[int, int]
) -> None:
    first = changed(*inputs(name, number, seed, size), seed)
    transform, samples = inputs(name, number, seed, size)
    before = kit.random_state()
    second = changed(pickle.loads(pickle.dumps(transform)), samples, seed)
    assert before == kit.random_state(), "a generator other than the given one was used"
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert np.array_equal(first.image, second.image)
        for key in first:
            assert np.array_equal(first[key].array, second[key].array), key


@every_transform
@given(seed=seeds, size=sizes)
@few
def test_what_is_handed_in_keeps_its_values(name: str, number: int, seed: int, size: tuple[int, int]) -> None:
    transform, samples = inputs(name, number, seed, size)
    kept = copy.deepcopy(samples)
    arrays = [[sample.image, *(sample[key].array for key in sample)] for sample in samples]
    changed(transform, samples, seed)
    for sample, old in zip(arrays, kept):
        for now, then in zip(sample, [old.image, *(old[key].array for key in old)]):
            assert np.array_equal(now, then)
    for sample, old in zip(samples[1:], kept[1:]):  # a cache may hand the same further sample out again
        assert sample.size == old.size
        assert sample.meta == old.meta
        assert all(np.array_equal(sample[key].array, old[key].array) for key in old)


@every_transform
@given(seed=seeds, size=sizes)
@few
def test_labels_change_only_where_pixels_move_or_are_covered(
    name: str, number: int, seed: int, size: tuple[int, int]
) -> None:
    transform, samples = inputs(name, number, seed, size)
    image, labels_before = samples[0].image, samples[0]["seg"].array
    after = changed(transform, samples, seed)
    if after is None or after.moved or after.size != image.shape[:2] or transform.needs or name.endswith(COARSE):
        return
    labels = after["seg"].array
    assert (labels[labels != labels_before] == 255).all()
    if np.array_equal(after.image, image):
        assert np.array_equal(labels, labels_before)


@every_transform
@given(seed=seeds, size=st.tuples(st.integers(48, 112), st.integers(48, 128)))
@few
def test_a_checkerboard_stays_under_its_labels(name: str, number: int, seed: int, size: tuple[int, int]) -> None:
    transform = built(name, number)
    if transform is None:
        pytest.skip("albumentations is missing")
    if "moves-together" in getattr(type(transform), "conformance_exceptions", {}):
        return
    after = changed(transform, [board(size, shift) for shift in range(1 + transform.needs)], seed)
    if after is not None:
        assert kit._agreement(after) > 0.9


def board(size: tuple[int, int], shift: int) -> Sample:
    """A checkerboard of 16 pixels, image and labels."""
    rows, columns = ((np.arange(edge) + 5 * shift) // 16 for edge in size)
    kinds = (rows[:, None] + columns) % 2
    fields = {"seg": LabelMap(kit.LABELS[kinds])}
    return Sample(fields, {"name": "board"}, kit.COLORS[kinds], original_size=size)
