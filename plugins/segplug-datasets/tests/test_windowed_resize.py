"""Resize computes only the window that a later crop keeps."""

from __future__ import annotations

import copy
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkernel.sample import Geometry, LabelMap, Sample
from segplug_datasets.geometry import Crop, Flip, Pad, Resize, Warp
from segplug_datasets.transforms.windowed_resize import WindowedResize

TURN = np.array([[0.96, -0.28, 20.0], [0.28, 0.96, -6.0], [0.0, 0.0, 1.0]])


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return a picture that looks like a photograph: coarse shapes and a little noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 20, width // 20, channels), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def in_turn(sample: Sample, steps: Sequence[Geometry]) -> Sample:
    """Apply changes, looking after each so that nothing is left planned, with the whole `Resize`."""
    for step in steps:
        step = Resize(step.to) if isinstance(step, WindowedResize) else step
        sample.apply(step).carry_out()
    return sample


PLANS = {
    "resize, crop": (WindowedResize((57, 131)), Crop(3, 5, 40, 60)),
    "enlarge, crop, crop": (WindowedResize((301, 517)), Crop(30, 55, 200, 301), Crop(7, 100, 100, 200)),
    "crop everything": (WindowedResize((180, 240)), Crop(0, 0, 180, 240)),
    "flips before the crop": (WindowedResize((201, 307)), Flip("horizontal"), Flip("vertical"), Crop(20, 10, 64, 80)),
    "diagonal before the crop": (Flip("diagonal"), Crop(20, 10, 64, 80)),
    "flip and pad after": (WindowedResize((91, 122)), Crop(1, 2, 70, 80), Flip("diagonal"), Pad(1, 2, 3, 4, 7)),
    "twice": (WindowedResize((40, 50)), WindowedResize((140, 150)), Crop(20, 30, 50, 60)),
    "warp between": (WindowedResize((100, 130)), Warp(TURN, (110, 130), 9), Crop(9, 8, 50, 70), Flip()),
}


@pytest.mark.parametrize("steps", PLANS.values(), ids=PLANS)
def test_a_plan_equals_its_steps_in_turn(sample: Sample, steps: Sequence[Geometry]) -> None:
    sample.image, sample["seg"] = smooth(90, 120), LabelMap(smooth(90, 120)[..., 0])
    expected = in_turn(copy.copy(sample), steps)
    for step in steps:
        sample.apply(step)
    assert (sample.size, sample.moved) == (expected.size, expected.moved)
    assert np.abs(sample.image.astype(int) - expected.image).max() <= 1
    for name, value in expected.fields.items():
        assert np.allclose(sample[name].array, value.array, atol=0.02), name  # a weight at a border
    assert np.array_equal(sample["seg"].array, expected["seg"].array)


@given(st.integers(2, 90), st.integers(2, 90), st.integers(2, 200), st.integers(2, 200), st.data())
@settings(max_examples=200, deadline=None)
def test_labels_of_a_window_are_exactly_those_of_the_resized_map(
    height: int, width: int, tall: int, wide: int, data: st.DataObject
) -> None:
    labels = (np.arange(height * width) % 251).astype(np.uint8).reshape(height, width)
    top, left = data.draw(st.integers(0, tall - 1)), data.draw(st.integers(0, wide - 1))
    crop = Crop(top, left, data.draw(st.integers(1, tall - top)), data.draw(st.integers(1, wide - left)))
    sample = Sample({"seg": LabelMap(labels)}, image=np.zeros((height, width, 3), np.uint8))
    sample.apply(WindowedResize((tall, wide))).apply(crop)
    expected = cv2.resize(labels, (wide, tall), interpolation=cv2.INTER_NEAREST)[crop.window]
    assert np.array_equal(sample["seg"].array, expected)


@given(st.integers(200, 300), st.integers(200, 300), st.floats(0.4, 6), st.data())
@settings(max_examples=60, deadline=None)
def test_any_window_of_an_image_is_within_a_grey_level(
    height: int, width: int, scale: float, data: st.DataObject
) -> None:
    to = max(300, round(height * scale)), max(300, round(width * scale))
    top, left = data.draw(st.integers(0, to[0] - 1)), data.draw(st.integers(0, to[1] - 1))
    crop = Crop(top, left, data.draw(st.integers(1, min(to[0] - top, 90))), data.draw(st.integers(1, to[1] - left)))
    picture = smooth(height, width)
    window = Sample(image=picture).apply(WindowedResize(to)).apply(crop).image
    expected = cv2.resize(picture, (to[1], to[0]))[crop.window]
    assert window.shape == expected.shape
    assert np.abs(window.astype(int) - expected).max() <= 2


WINDOWS = [Crop(0, 0, 300, 400), Crop(1650, 2200, 350, 400), Crop(711, 1003, 311, 407), Crop(900, 0, 1, 2600)]


@pytest.mark.parametrize("crop", WINDOWS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_small_window_of_a_large_image_is_resampled_alone_within_a_grey_level(crop: Crop, channels: int) -> None:
    picture = smooth(700, 900, channels)
    expected = in_turn(Sample(image=picture), [WindowedResize((2000, 2600)), crop]).image
    window = Sample(image=picture).apply(WindowedResize((2000, 2600))).apply(crop).image
    difference = np.abs(window.astype(int) - expected)
    assert difference.max() <= 2
    assert np.mean(difference > 1) < 1e-4


def test_only_what_a_window_needs_is_read(tmp_path: Path) -> None:
    picture = np.lib.format.open_memmap(tmp_path / "picture.npy", "w+", np.uint8, (3000, 4000, 3))
    labels = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint8, (3000, 4000))
    picture[...], labels[...] = 255, 255
    picture[1000:1300, 1500:1900], labels[1000:1300, 1500:1900] = 9, 1
    sample = Sample({"seg": LabelMap(labels)}, image=picture)
    sample.apply(WindowedResize((6000, 8000))).apply(Crop(2010, 3010, 570, 770)).apply(Flip())
    tracemalloc.start()
    assert (sample.image == 9).all()
    assert (sample["seg"].array == 1).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < picture.size / 4
