"""Transforms of pixel values: against values computed by hand, scipy, and the reference where it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from segkernel.errors import DataError, UsageError
from segkernel.sample import LabelMap, Sample
from segplug_datasets.transforms.biomedical import (
    BioMedicalGaussianBlur,
    BioMedicalGaussianNoise,
    BioMedicalRandomGamma,
)
from segplug_datasets.transforms.erase import GridMask
from segplug_datasets.transforms.intensity import (
    GaussianBlur,
    GaussianNoise,
    JPEGCompression,
    Normalize,
    RandomGrayscale,
    Rerange,
)
from segplug_datasets.transforms.randaugment import OPERATIONS, RandAugment
from segplug_datasets.transforms.special import SegRescale

HERE = Path(__file__).parent


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(size: tuple[int, ...] = (40, 50, 3), dtype: Any = np.uint8) -> np.ndarray:
    return ndimage.gaussian_filter(rng().uniform(0, 255, size), (2, 2, 0)).astype(dtype)


def only(transform: Any, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return transform(Sample(image=image), rng(seed)).image


def test_rerange_equals_the_reference() -> None:
    with np.load(HERE / "data/transforms.npz") as file:
        image = file["img"]
    changed = only(Rerange(), image)
    expected = (image - float(image.min())) / (float(image.max()) - float(image.min())) * 255
    assert changed.dtype == np.float32
    assert np.allclose(changed, expected, atol=1e-4)
    assert only(Rerange(-1, 1), image).min() == -1
    assert only(Rerange(-1, 1), image).max() == pytest.approx(1)
    assert (only(Rerange(3, 5), np.full((2, 2, 1), 9, np.uint8)) == 3).all()


def test_normalize_by_hand() -> None:
    changed = only(Normalize([10, 20, 30], [1, 2, 4]), np.array([[[11, 24, 26]]], np.uint8))
    assert changed.tolist() == [[[1, 2, -1]]]
    assert changed.dtype == np.float32
    with pytest.raises(DataError, match="3 means for an image of 1"):
        only(Normalize([1, 2, 3], [1, 1, 1]), np.zeros((2, 2, 1), np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_blur_equals_scipy(channels: int) -> None:
    image = picture((40, 50, channels), np.float32)
    expected = ndimage.gaussian_filter(image, (1.5, 1.5, 0), mode="mirror")
    assert np.abs(only(GaussianBlur(1.0, (1.5, 1.5)), image) - expected).max() < 0.5


def test_noise_has_the_given_strength() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = only(GaussianNoise(1.0, (10, 10)), grey)
    assert noisy.dtype == np.uint8
    assert noisy.std() == pytest.approx(10, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.2)
    assert only(GaussianNoise(1.0, (90, 90)), grey).min() == 0
    assert np.array_equal(only(GaussianNoise(0.0), grey), grey)


def test_jpeg_keeps_the_order_of_colours() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 1] = 200, 60
    for quality, tolerance in ((95, 3), (30, 12)):
        assert np.abs(only(JPEGCompression(1.0, (quality, quality)), image).astype(int) - image).max() <= tolerance
    textured = picture()
    errors = [np.abs(only(JPEGCompression(1.0, (q, q)), textured).astype(int) - textured).mean() for q in (5, 90)]
    assert errors[0] > 2 * errors[1]
    assert only(JPEGCompression(1.0), image[..., :1]).shape == (32, 32, 1)
    with pytest.raises(DataError, match="a JPEG holds"):
        only(JPEGCompression(1.0), image.astype(np.float32))


def test_grey_has_three_equal_channels() -> None:
    grey = only(RandomGrayscale(1.0), picture())
    assert (grey == grey[..., :1]).all()
    assert np.array_equal(only(RandomGrayscale(0.0), picture()), picture())


def test_the_grid_covers_squares_at_equal_distances() -> None:
    image = np.full((60, 80, 3), 9, np.uint8)
    sample = Sample({"seg": LabelMap(np.ones((60, 80), np.uint8))}, {}, image)
    sample = GridMask(1.0, (20, 20), 0.75, (1, 2, 3), seg_fill_in=255)(sample, rng())
    holes = (sample.image == [1, 2, 3]).all(-1)
    assert holes.sum() == (60 * 5 // 20) * (80 * 5 // 20)
    assert np.array_equal(holes, sample["seg"].array == 255)
    assert np.array_equal(holes[20:], holes[:-20])


def test_coarse_labels_keep_their_place() -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    coarse = SegRescale(0.5)(Sample({"seg": LabelMap(labels)}, {}, np.zeros((8, 8, 3), np.uint8)), rng())
    assert np.array_equal(coarse["seg"].array, labels[::2, ::2].repeat(2, 0).repeat(2, 1))
    assert np.array_equal(SegRescale(2.0)(Sample({"seg": LabelMap(labels)}), rng())["seg"].array, labels)


# ---------------------------------------------------------------- RandAugment


def operated(name: str, image: np.ndarray, strength: float) -> np.ndarray:
    sample = Sample({"seg": LabelMap(image[..., 0].copy())}, {}, image)
    RandAugment().operate(sample, name, strength)
    return sample.image


def test_operations_by_hand() -> None:
    image = np.array([[[50, 50, 50], [100, 100, 100], [151, 151, 151]]], np.uint8)
    by_hand = {
        ("Brightness", 1.0): [95, 190, 255],
        ("Brightness", -1.0): [5, 10, 15],
        ("Contrast", -1.0): [95, 100, 105],
        ("Color", 1.0): [50, 100, 151],
        ("AutoContrast", 1.0): [0, 126, 255],
        ("Posterize", 1.0): [48, 96, 144],
        ("Solarize", 0.5): [50, 100, 104],
        ("Identity", 1.0): [50, 100, 151],
    }
    for (name, strength), expected in by_hand.items():
        assert operated(name, image, strength)[0, :, 1].tolist() == pytest.approx(expected, abs=1), name


def test_every_operation_acts_and_only_moves_move_labels() -> None:
    image = np.ascontiguousarray(picture((48, 60, 3)))
    for name in OPERATIONS:
        sample = Sample({"seg": LabelMap(image[..., 0] // 64)}, {}, image)
        RandAugment().operate(sample, name, 0.5)
        moved = name.startswith(("Rotate", "Shear", "Translate"))
        assert bool(sample.moved) == moved
        assert np.array_equal(sample["seg"].array, image[..., 0] // 64) != moved
        assert np.array_equal(sample.image, image) == (name == "Identity"), name


def test_a_full_translation_is_150_of_331_of_the_edge() -> None:
    image = np.zeros((20, 331, 3), np.uint8)
    image[:, 0] = 200
    assert operated("TranslateX", image, 1.0)[10, :, 0].argmax() == 150


def test_operations_are_drawn_uniformly() -> None:
    seen = {only(RandAugment(1, 15), np.ascontiguousarray(picture((24, 30, 3))), seed).tobytes() for seed in range(200)}
    assert len(seen) >= 14


# ---------------------------------------------------------------- scans


def test_blurred_volumes_equal_scipy() -> None:
    volume = rng().normal(size=(12, 14, 5)).astype(np.float32)
    sample = Sample({"seg": LabelMap(np.zeros((12, 14, 5), np.uint8))}, {}, volume)
    blurred = BioMedicalGaussianBlur((0.8, 0.8), 1.0, 1.0)(sample, rng()).image
    assert np.allclose(blurred, ndimage.gaussian_filter(volume, 0.8), atol=1e-5)


def test_modalities_are_blurred_on_their_own() -> None:
    image = rng().normal(size=(12, 14, 6)).astype(np.float32)
    sample = Sample({}, {"slices": 3}, image)
    blurred = BioMedicalGaussianBlur((0.8, 0.8), 1.0, 1.0)(sample, rng()).image.reshape(12, 14, 3, 2)
    for modality in range(2):
        expected = ndimage.gaussian_filter(image.reshape(12, 14, 3, 2)[..., modality], 0.8)
        assert np.allclose(blurred[..., modality], expected, atol=1e-5)


def test_scans_become_floats_also_when_nothing_is_drawn() -> None:
    for transform in (BioMedicalGaussianNoise(0.0), BioMedicalGaussianBlur(prob=0.0), BioMedicalRandomGamma(0.0)):
        image = only(transform, picture())
        assert image.dtype == np.float32
        assert np.array_equal(image, picture())


def test_noise_of_scans_is_at_most_as_strong_as_asked() -> None:
    flat = np.zeros((100, 100, 1), np.float32)
    stds = [only(BioMedicalGaussianNoise(1.0, 2.0, 0.5), flat, seed).std() for seed in range(60)]
    assert max(stds) < 0.52
    assert np.mean(stds) == pytest.approx(0.25, abs=0.06)
    assert only(BioMedicalGaussianNoise(1.0, 2.0, 0.5), flat).mean() == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("invert", [False, True])
def test_gamma_keeps_the_range(invert: bool) -> None:
    image = rng().normal(3, 2, (20, 30, 1)).astype(np.float32)
    curved = only(BioMedicalRandomGamma(1.0, (2.0, 2.0), invert_image=invert), image)
    shares = (image - image.min()) / np.ptp(image)
    expected = 1 - (1 - shares) ** 2 if invert else shares**2
    assert np.allclose(curved, expected * np.ptp(image) + image.min(), atol=1e-4)


def test_gamma_can_keep_mean_and_deviation() -> None:
    image = rng().normal(3, 2, (20, 30, 2)).astype(np.float32)
    curved = only(BioMedicalRandomGamma(1.0, (0.5, 0.5), per_channel=True, retain_stats=True), image)
    assert np.allclose(curved.mean((0, 1)), image.mean((0, 1)), atol=1e-3)
    assert np.allclose(curved.std((0, 1)), image.std((0, 1)), atol=1e-3)
    assert not np.allclose(curved, image)


def test_gammas_lie_on_both_sides_of_one() -> None:
    draws = np.array([BioMedicalRandomGamma()._gamma(rng(seed)) for seed in range(400)])
    assert 160 < (draws < 1).sum() < 240
    assert 0.5 <= draws.min() < draws.max() <= 2
    assert all(0.5 <= BioMedicalRandomGamma(gamma_range=(0.5, 0.8))._gamma(rng(seed)) <= 0.8 for seed in range(20))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Rerange(5, 5),
        lambda: Normalize([1.0], [0.0]),
        lambda: Normalize([1.0], [1.0, 1.0]),
        lambda: GaussianBlur(sigma=(2, 1)),
        lambda: GaussianNoise(2.0),
        lambda: JPEGCompression(quality=(50, 101)),
        lambda: GridMask(ratio=1.0),
        lambda: SegRescale(0),
        lambda: RandAugment(magnitude=31),
        lambda: RandAugment(num_ops=0),
        lambda: BioMedicalGaussianNoise(std=-1),
        lambda: BioMedicalGaussianBlur(sigma_range=(1.0, 0.5)),
        lambda: BioMedicalRandomGamma(gamma_range=(0, 1)),
    ],
)
def test_wrong_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(UsageError):
        wrong()


def test_colour_operations_need_colours() -> None:
    for transform in (RandAugment(), RandomGrayscale(1.0)):
        with pytest.raises(DataError):
            only(transform, np.zeros((4, 4, 1), np.uint8))
