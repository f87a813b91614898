"""Transforms that rotate, shear and bend: new positions of pixels, boxes and keypoints."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import Field, Geometry, LabelMap, Sample
from segplug_datasets.fields import Boxes, Keypoints
from segplug_datasets.transforms import warp
from segplug_datasets.transforms.warp import (
    Bend,
    ElasticTransform,
    QuarterTurn,
    RandomAffine,
    RandomPerspective,
    RandomRotFlip,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def marked(size: tuple[int, int] = (60, 90), at: tuple[int, int] = (20, 30)) -> Sample:
    """A sample with a bright square of 9 pixels, a box around it and a key point in its middle."""
    labels, (top, left) = np.zeros(size, np.uint8), at
    labels[top : top + 9, left : left + 9] = 1
    fields: dict[str, Field] = {
        "seg": LabelMap(labels),
        "boxes": Boxes(np.array([[left, top, left + 9, top + 9]], np.float32)),
        "keypoints": Keypoints(np.array([[[left + 4.5, top + 4.5, 2]]], np.float32)),
    }
    return Sample(fields, {}, np.repeat(labels[..., None] * np.uint8(200), 3, 2))


def middle(sample: Sample) -> np.ndarray:
    """Return (x, y), the middle of the labelled square."""
    rows, columns = np.nonzero(sample["seg"].array == 1)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


@pytest.mark.parametrize("count", range(4))
def test_a_quarter_turn_moves_pixels_and_points_exactly(count: int) -> None:
    sample = marked().apply(QuarterTurn(count))
    assert np.array_equal(sample["seg"].array, np.rot90(marked()["seg"].array, count))
    assert np.array_equal(sample.image[..., 0], sample["seg"].array * 200)
    assert sample["keypoints"].array[0, 0, :2].tolist() == middle(sample).tolist()
    left, top, right, bottom = sample["boxes"].array[0].astype(int)
    assert (sample["seg"].array[top:bottom, left:right] == 1).all()
    assert (right - left) * (bottom - top) == 81


def test_rot_flip_turns_or_mirrors() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(1000):
        sample = RandomRotFlip(0.5, 0.5)(marked(), rng(seed))
        kinds[sample.moved] += 1
        assert np.abs(sample["keypoints"].array[0, 0, :2] - middle(sample)).max() < 0.5
    assert kinds["Warp"] == pytest.approx(500, abs=60)
    assert kinds["Flip"] == pytest.approx(250, abs=60)
    assert kinds[""] == pytest.approx(250, abs=60)


def test_quarter_turns_end_in_a_mirror() -> None:
    found = {RandomRotFlip(0, 1)(marked((20, 20), (1, 4)), rng(seed)).image.tobytes() for seed in range(60)}
    picture = marked((20, 20), (1, 4)).image
    assert found == {np.ascontiguousarray(np.rot90(picture[::-1], count)).tobytes() for count in range(4)}


TRANSFORMS = [
    RandomAffine(20, 0.1, (0.8, 1.2), 10),
    RandomPerspective(0.4, prob=1.0),
    ElasticTransform(1.0),
    ElasticTransform(1.0, alpha=10, grid=3),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_boxes_and_points_move_with_the_pixels(transform: Any) -> None:
    for seed in range(12):
        sample = transform(marked(), rng(seed))
        labels = sample["seg"].array
        bright = sample.image[..., 0] > 100
        assert (bright != (labels == 1)).sum() <= 12  # along the square's border
        assert np.abs(sample["keypoints"].array[0, 0, :2] - middle(sample)).max() < 2.5
        rows, columns = np.nonzero(labels == 1)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(sample["boxes"].array[0] - box).max() < 2.5
        assert sample.size == (60, 90)
        assert sample.moved


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_comes_in_from_outside_is_255(transform: Any) -> None:
    transform.pad_val = (1, 2, 3)
    outside = 0
    for seed in range(6):
        sample = Sample({"seg": LabelMap(np.zeros((40, 50), np.uint8))}, {}, np.full((40, 50, 3), 200, np.uint8))
        sample = transform(sample, rng(seed))
        unknown = sample["seg"].array == 255
        assert set(np.unique(sample["seg"].array).tolist()) <= {0, 255}
        assert (sample.image[~unknown] >= 45).all()
        outside += int((sample.image[unknown] == [1, 2, 3]).all(-1).sum())
    assert outside > 0


def test_a_shift_by_hand() -> None:
    """Each pixel takes the value of the one two to its right."""
    source = warp._centers((3, 5)) + np.array([2, 0], np.float32)
    change = Bend(source, lambda points: points - [2, 0], fill=7)
    image = np.arange(15, dtype=np.uint8).reshape(3, 5, 1).repeat(6, 2)
    sample = Sample({"seg": LabelMap(image[..., 0])}, {}, image).apply(change)
    assert sample["seg"].array[0].tolist() == [2, 3, 4, 255, 255]
    assert sample.image[1, :, 5].tolist() == [7, 8, 9, 7, 7]
    assert sample.moved == "Bend"


def test_displacements_have_the_given_size() -> None:
    fine = ElasticTransform(alpha=50, sigma=5)._displacements((200, 300), rng())
    assert fine.shape == (200, 300, 2)
    # A uniform number has the deviation 1/sqrt(3), the Gaussian divides it by 2 sqrt(pi) sigma.
    assert fine.std() == pytest.approx(50 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 5), rel=0.1)
    coarse = ElasticTransform(alpha=10, grid=3)._displacements((300, 300), rng())
    assert 3 < np.abs(coarse).max() < 40
    assert np.abs(np.diff(coarse, axis=0)).max() < 1  # nothing folds


def test_points_are_followed_to_where_their_pixel_is_shown() -> None:
    points = np.stack(np.meshgrid(np.arange(40.5, 90), np.arange(20.5, 70)), -1)
    for transform in (ElasticTransform(alpha=50, sigma=5), ElasticTransform(alpha=10, grid=3)):
        shifts = transform._displacements((90, 130), rng())
        places = warp._followed(points, shifts)
        assert np.abs(places + warp._between(shifts, places) - points).max() < 0.05


def test_bending_refuses_fields_that_move_by_a_matrix_only() -> None:
    class Arrow(Field):
        def apply(self, geometry: Geometry, size: tuple[int, int]) -> Arrow:
            return Arrow(geometry.matrix(size)[:2, :2] @ self.array)

    class Odd(Field):
        pass

    sample = marked()
    sample["arrow"] = Arrow(np.ones(2))
    with pytest.raises(DataError, match=r"'apply' must use 'geometry\.move'"):
        ElasticTransform(1.0)(sample, rng())
    sample = marked()
    sample["odd"] = Odd(np.zeros(3))
    with pytest.raises(DataError, match="Odd cannot be moved: its class does not implement 'apply'"):
        ElasticTransform(1.0)(sample, rng())


def test_the_affine_middle_stays_without_a_shift() -> None:
    for seed in range(10):
        sample = RandomAffine(45, 0.0, (0.5, 2.0), 20)(marked((61, 91), (26, 41)), rng(seed))
        assert np.allclose(middle(sample), [45.5, 30.5], atol=0.6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomRotFlip(rotate_prob=2),
        lambda: RandomAffine(scaling_ratio_range=(0, 1)),
        lambda: RandomAffine(max_translate_ratio=1.5),
        lambda: RandomAffine(max_shear_degree=60),
        lambda: RandomPerspective(2.0),
        lambda: ElasticTransform(sigma=0),
        lambda: ElasticTransform(grid=1),
    ],
)
def test_wrong_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        wrong()
