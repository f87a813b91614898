"""Photometric distortion: lookup tables on the CPU and arithmetic on the device produce the same image."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from segkernel.data import Loader
from segkernel.inference import Preprocessor
from segkernel.sample import Batch, LabelMap, Sample, collate
from segplug_datasets.street_scenes import StreetScenes
from segplug_datasets.transforms.color import PhotoMetricDistortion
from segplug_datasets.transforms.distortion import Distortion

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
PLAIN = Preprocessor(mean=(0, 0, 0), std=(1, 1, 1)).train()


@pytest.fixture(scope="module")
def colors() -> np.ndarray:
    """Every 5th colour there is, as (52 * 52, 52, 3)."""
    values = np.arange(0, 256, 5, dtype=np.uint8)
    return np.stack(np.meshgrid(values, values, values, indexing="ij"), -1).reshape(-1, len(values), 3)


def on_device(images: list[np.ndarray], steps: list[Distortion | None], device: str = "cpu") -> np.ndarray:
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device, torch.float32)
    return Distortion.together(batch, steps).permute(0, 2, 3, 1).cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
def test_brightness_and_contrast_are_the_same_on_both(colors: np.ndarray, device: str) -> None:
    steps = [Distortion(brightness=-20.3, contrast=1.37), Distortion(31.9, contrast_after=0.51), Distortion()]
    found = on_device([colors] * 3, steps, device)
    for image, step in zip(found, steps):
        assert np.array_equal(image, step(colors))
    assert np.array_equal(found[2], colors)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "step",
    [Distortion(hue=17), Distortion(hue=-18), Distortion(saturation=0.5), Distortion(saturation=1.5, hue=0)],
    ids=str,
)
def test_saturation_and_hue_differ_by_a_rounding_at_most(colors: np.ndarray, step: Distortion, device: str) -> None:
    difference = np.abs(on_device([colors], [step], device)[0] - step(colors))
    assert difference.mean() < 0.4
    assert np.mean(difference > 2) < 0.01
    assert difference.max() <= 12  # a hue that OpenCV's fast paths round the other way: two degrees of a full colour


def test_an_image_without_a_step_stays_as_it_is(colors: np.ndarray) -> None:
    found = on_device([colors, colors], [None, Distortion(hue=5, saturation=1.2)])
    assert np.array_equal(found[0], colors)
    assert not np.array_equal(found[1], colors)


def test_grey_has_no_hue_to_turn() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
    assert np.array_equal(on_device([grey], [Distortion(hue=12, saturation=1.4)])[0], grey)


def test_hues_are_rotated_by_the_given_angle() -> None:
    red = np.full((1, 1, 3), (200, 0, 0), np.uint8)
    yellow = on_device([red], [Distortion(hue=30)])[0]
    assert yellow.tolist() == [[[200, 200, 0]]]
    assert np.abs(Distortion(hue=30)(red).astype(int) - yellow).max() <= 1


def street(count: int = 3) -> list[Sample]:
    scenes = StreetScenes(length=count)
    return [scenes[index] for index in range(count)]


def test_the_preprocessor_equals_the_cpu_transform() -> None:
    for seed in range(6):
        pairs = []
        for left in (False, True):
            transform = PhotoMetricDistortion(on_device=left)
            samples = [transform(sample, np.random.default_rng((seed, i))) for i, sample in enumerate(street())]
            pairs.append(PLAIN(collate(samples))[0])
        difference = (pairs[0] - pairs[1]).abs()
        assert difference.mean() < 0.5
        assert (difference > 3).float().mean() < 0.01


def test_padding_stays_black_after_distortion() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    small = Sample(image=image, device_steps=[Distortion(brightness=30)])
    images, _ = PLAIN(collate([small, Sample(image=np.zeros((6, 8, 3), np.uint8))]))
    assert (images[0, :, :4, :4] == 130).all()
    assert images[0, :, 4:].max() == images[0, :, :, 4:].max() == 0
    assert images[1].max() == 0


def test_steps_of_several_transforms_are_done_in_their_order() -> None:
    steps = [Distortion(brightness=100), Distortion(contrast=0.5)]
    sample = Sample(image=np.full((2, 2, 3), 200, np.uint8), device_steps=steps)
    assert PLAIN(collate([sample]))[0].unique().tolist() == [127]


def test_the_input_batch_is_not_modified() -> None:
    images = torch.full((1, 3, 2, 2), 50.0)
    batch = Batch(images, sizes=[(2, 2)], device_steps=[[Distortion(brightness=9, hue=3)]])
    PLAIN(batch)
    assert images.unique().tolist() == [50]


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_are_the_same_for_any_number_of_workers(workers: int) -> None:
    scenes, transforms = StreetScenes(length=4), [PhotoMetricDistortion(on_device=True)]
    loader = Loader(scenes, transforms, micro_batch=2, workers=workers, start_method="fork" if workers else None)
    batches = loader.train_batches()
    drawn = [steps[0] for _ in range(3) for steps in next(batches).device_steps]
    assert drawn == DRAWN.setdefault("first", drawn)
    assert len(set(drawn)) > 1
    assert pickle.loads(pickle.dumps(drawn)) == drawn


DRAWN: dict[str, list[Distortion]] = {}


def test_on_device_leaves_the_image_to_the_device() -> None:
    sample = street(1)[0]
    before = sample.image.copy()
    after = PhotoMetricDistortion(on_device=True)(sample, np.random.default_rng(1))
    assert np.array_equal(after.image, before)


# ---------------------------------------------------------------- geometry of photographs

PHOTOS = sorted((Path(__file__).parents[4] / "shared/data/cityscapes_sample").glob("*_leftImg8bit.png"))


@pytest.mark.skipif(not PHOTOS, reason="photographs are in ../shared/data, which is not here")
@pytest.mark.parametrize("seed", range(3))
def test_a_window_of_a_photograph_is_within_two_levels_of_the_plain_order(seed: int) -> None:
    from segplug_datasets.transforms.place import RandomCrop
    from segplug_datasets.transforms.resize import RandomResize

    photo = cv2.imread(str(PHOTOS[-1]))
    sample = Sample({"seg": LabelMap(photo[..., 0])}, image=photo)
    rng, drawn = np.random.default_rng(seed), np.random.default_rng(seed)
    RandomResize((2048, 1024), (1.3, 2.0))(sample, rng)
    height, width = sample.size
    sample = RandomCrop((512, 1024))(sample, rng)
    drawn.random()
    top, left = int(drawn.integers(height - 511)), int(drawn.integers(width - 1023))
    window = np.s_[top : top + 512, left : left + 1024]
    difference = np.abs(cv2.resize(photo, (width, height))[window].astype(int) - sample.image)
    assert difference.max() <= 2
    labels = cv2.resize(photo[..., 0], (width, height), interpolation=cv2.INTER_NEAREST)[window]
    assert np.array_equal(sample["seg"].array, labels)
