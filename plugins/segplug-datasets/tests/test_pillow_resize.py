"""`PillowResize` against Pillow, and the size rules of image processors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segkernel.errors import UsageError
from segkernel.sample import LabelMap, Sample
from segplug_datasets.transforms.pillow_resize import PillowResize

FILTERS = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
"""In the order of Pillow's numbers."""


def resized(image: np.ndarray, **arguments) -> np.ndarray:
    return PillowResize(**arguments)(Sample(image=image), np.random.default_rng(0)).image


@pytest.mark.parametrize("resample", FILTERS)
def test_bytes_equal_pillows(resample: str) -> None:
    rng = np.random.default_rng(0)
    for height, width, new in [(37, 53, (64, 64)), (48, 64, (20, 33)), (60, 100, (33, 20)), (9, 1, (9, 7))]:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs = np.asarray(Image.fromarray(image).resize(new[::-1], FILTERS.index(resample)))
        assert np.array_equal(resized(image, size=new, resample=resample), theirs), (height, width, new)


def test_a_smaller_image_averages_all_pixels() -> None:
    stripes = np.zeros((8, 8, 1), np.float32)
    stripes[::4] = 1
    assert np.allclose(resized(stripes, size=(2, 2), resample="box"), 0.25)


def test_labels_take_the_nearest_pixel() -> None:
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    sample = Sample({"seg": LabelMap(labels)}, {}, np.zeros((4, 4, 3), np.uint8))
    changed = PillowResize(size=(2, 2), resample="bicubic")(sample, np.random.default_rng(0))
    assert changed["seg"].array.tolist() == [[5, 7], [13, 15]]


def test_sizes() -> None:
    rules = {
        (256, 341): ({"shortest_edge": 256}, (480, 640)),
        (341, 256): ({"shortest_edge": 256}, (640, 480)),
        (225, 300): ({"shortest_edge": 256, "longest_edge": 300}, (480, 640)),
        (256, 352): ({"shortest_edge": 256, "size_divisor": 32}, (480, 640)),
        # Depth Anything: the factors are 1.079 and 0.809; the first is nearer to 1.
        (518, 686): ({"size": (518, 518), "keep_aspect_ratio": True, "multiple_of": 14}, (480, 640)),
        (406, 518): ({"size": (400, 512), "multiple_of": 14}, (480, 640)),
    }
    found = {wanted: PillowResize(**arguments).target(size) for wanted, (arguments, size) in rules.items()}
    assert list(found.values()) == list(found)


def test_one_size_is_given() -> None:
    for wrong in ({}, {"size": (4, 4), "shortest_edge": 4}):
        with pytest.raises(UsageError, match="either"):
            PillowResize(**wrong)
