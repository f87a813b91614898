"""Volumes: blocks, padding, flips and slices keep image and labels aligned; nested transforms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.errors import ConfigError, DataError, UsageError
from segkernel.sample import LabelMap, Sample, WeightMap
from segplug_datasets.transforms.compose import RandomApply, RandomChoice
from segplug_datasets.transforms.mosaic import Mosaic
from segplug_datasets.transforms.place import RandomCrop, RandomFlip
from segplug_datasets.transforms.volume import (
    BioMedical3DPad,
    BioMedical3DRandomCrop,
    BioMedical3DRandomFlip,
    RandomSlice,
    as_volume,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scan(shape: tuple[int, int, int] = (5, 8, 10), modalities: int = 2) -> Sample:
    """A scan whose first modality repeats the labels, one of their own per slice, row and column."""
    z, y, x = shape
    labels = (np.arange(y)[:, None, None] * 7 + np.arange(x)[:, None] * 3 + np.arange(z) * 11).astype(np.uint8) % 200
    image = np.stack([labels, *[255 - labels] * (modalities - 1)], 3).reshape(y, x, z * modalities)
    return Sample({"seg": LabelMap(labels), "weight": WeightMap(labels.astype(np.float32))}, {}, image)


def together(sample: Sample) -> bool:
    labels = sample["seg"].array
    known = labels != 255
    volume = as_volume(sample)
    assert np.array_equal(sample["weight"].array[known], labels[known])
    return bool(np.array_equal(volume[known, 0], labels[known]) and (volume[known, 1] == 255 - labels[known]).all())


@pytest.mark.parametrize("keep", [True, False])
def test_a_block_is_cut_in_three_directions(keep: bool) -> None:
    seen = set()
    for seed in range(30):
        sample = BioMedical3DRandomCrop((3, 4, 20), keep)(scan(), rng(seed))
        assert sample["seg"].array.shape == (4, 10, 3)
        assert sample.image.shape == (4, 10, 6)
        assert together(sample)
        seen.add(sample.image.tobytes())
    assert len(seen) > 8


def test_blocks_hold_the_foreground() -> None:
    sample = scan((9, 40, 40), 1)
    labels = np.zeros((40, 40, 9), np.uint8)
    labels[3, 37, 7], labels[0, 0, 0] = 4, 255
    for seed in range(10):
        sample = Sample({"seg": LabelMap(labels)}, {}, labels * 50)
        assert (BioMedical3DRandomCrop(3)(sample, rng(seed))["seg"].array == 4).sum() == 1


def test_padding_is_added_on_both_sides() -> None:
    padded = BioMedical3DPad((8, 8, 13), pad_val=77)(scan(), rng())
    assert padded["seg"].array.shape == (8, 13, 8)
    assert together(padded)
    known = padded["seg"].array != 255
    assert known[:, 1:11, 1:6].all()
    assert known.sum() == 5 * 8 * 10
    assert (as_volume(padded)[~known] == 77).all()
    assert (padded["weight"].array[~known] == 0).all()
    assert BioMedical3DPad((1, 1, 1))(scan(), rng()).image.tobytes() == scan().image.tobytes()


def test_each_direction_is_mirrored_on_its_own() -> None:
    found = Counter()
    for seed in range(200):
        sample = BioMedical3DRandomFlip(0.5)(scan(), rng(seed))
        assert together(sample)
        found[sample["seg"].array.tobytes()] += 1
    assert len(found) == 8
    for axes, expected in (((0,), np.s_[:, :, ::-1]), ((1,), np.s_[::-1]), ((2,), np.s_[:, ::-1])):
        mirrored = BioMedical3DRandomFlip(1.0, axes)(scan(), rng())
        assert np.array_equal(mirrored["seg"].array, scan()["seg"].array[expected])


def test_left_and_right_swap_with_x_only() -> None:
    sample = Sample({"seg": LabelMap(np.full((2, 2, 2), 5, np.uint8))}, {}, np.zeros((2, 2, 2), np.float32))
    assert (BioMedical3DRandomFlip(1.0, (0, 1), [(5, 6)])(sample, rng())["seg"].array == 5).all()
    assert (BioMedical3DRandomFlip(1.0, (2,), [(5, 6)])(sample, rng())["seg"].array == 6).all()


def test_a_slice_comes_with_its_neighbours() -> None:
    whole = scan()["seg"].array
    for seed in range(20):
        sample = RandomSlice(3)(scan(), rng(seed))
        assert sample["seg"].array.shape == sample["weight"].array.shape == (8, 10)
        assert sample.image.shape == (8, 10, 6)
        middle = next(z for z in range(5) if np.array_equal(whole[..., z], sample["seg"].array))
        expected = whole[..., np.clip([middle - 1, middle, middle + 1], 0, 4)]
        assert np.array_equal(sample.image.reshape(8, 10, 3, 2)[..., 0], expected)
    plain = Sample({"seg": LabelMap(np.ones((4, 4), np.uint8))}, {}, np.ones((4, 4, 3), np.uint8))
    assert RandomSlice()(plain, rng()).image.shape == (4, 4, 3)


def test_channels_that_do_not_fit_the_slices_are_refused() -> None:
    sample = Sample({"seg": LabelMap(np.zeros((4, 4, 2), np.uint8))}, {}, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="volume of 2 slices"):
        RandomSlice()(sample, rng())


# ---------------------------------------------------------------- transforms made of others


def image() -> Sample:
    return Sample({"seg": LabelMap(np.zeros((20, 20), np.uint8))}, {}, np.zeros((20, 20, 3), np.uint8))


def test_apply_has_the_given_probability() -> None:
    transform = RandomApply([RandomFlip(1.0), RandomCrop((5, 5))], prob=0.25)
    applied = sum(transform(image(), rng(seed)).size == (5, 5) for seed in range(400))
    assert 70 < applied < 130


def test_choices_have_the_given_probabilities() -> None:
    transform = RandomChoice([RandomCrop(3), [RandomCrop(10), RandomCrop(5)], RandomCrop(7)], [0.2, 0.3, 0.5])
    sizes = Counter(transform(image(), rng(seed)).size[0] for seed in range(600))
    assert set(sizes) == {3, 5, 7}
    assert sizes[3] == pytest.approx(120, abs=40)
    assert sizes[7] == pytest.approx(300, abs=50)
    even = Counter(RandomChoice([RandomCrop(3), RandomCrop(4)])(image(), rng(seed)).size[0] for seed in range(300))
    assert even[3] == pytest.approx(150, abs=40)


def test_further_samples_are_handed_on() -> None:
    both = RandomApply([Mosaic((20, 20)), Mosaic((10, 10))], 1.0)
    assert both.needs == 6
    assert RandomChoice([both, RandomFlip()]).needs == 6
    assert both(image(), rng(), *(image() for _ in range(6))).size == (10, 10)


def test_a_rejected_sample_stays_rejected() -> None:
    class Reject:
        needs = 0

        def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> None:
            return None

    assert RandomApply([Reject(), RandomFlip()], 1.0)(image(), rng()) is None


def test_nested_transforms_are_built_and_checked_like_others() -> None:
    config: dict[str, Any] = {
        "type": "RandomChoice",
        "transforms": [[{"type": "CutMix", "transforms": [{"type": "RandomFlip"}]}], {"type": "CLAHE"}],
    }
    assert build("transforms", config).needs == 1
    config["transforms"][0][0]["transforms"][0]["porb"] = 1
    with pytest.raises(ConfigError, match=r"transforms\[0\]\[0\]\.transforms\[0\]\.porb"):
        build("transforms", config)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RandomApply([]),
        lambda: RandomApply([RandomFlip()], 2.0),
        lambda: RandomChoice([]),
        lambda: RandomChoice([RandomFlip()], [0.5]),
        lambda: BioMedical3DRandomCrop((0, 1, 1)),
        lambda: BioMedical3DRandomFlip(0.5, (3,)),
        lambda: RandomSlice(2),
    ],
)
def test_wrong_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        wrong()
