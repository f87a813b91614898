"""Transforms return the reference's pixels for the same draws, and move image and labels together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import LabelMap, Sample
from segplug_datasets.transforms import color, place, resize

HERE = Path(__file__).parent
CASES = json.loads((HERE / "data/transforms.json").read_text())
CLASSES = {name: kind for module in (resize, place, color) for name, kind in vars(module).items()}
# OpenCV's affine warp and HSV conversion have been rewritten since the reference was made.
TOLERANCE = {"rotate_0": 6, "photo_0": 3, "photo_1": 3}


class Replay:
    """Gives the draws that numpy's legacy generator gave the reference."""

    def __init__(self, seed: int | None) -> None:
        self.state = np.random.RandomState(seed)

    def integers(self, low: int, high: int | None = None) -> int:
        return self.state.randint(low) if high is None else self.state.randint(low, high)

    def uniform(self, low: float, high: float) -> float:
        return self.state.uniform(low, high)

    def random(self) -> float:
        return self.state.random_sample()


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Inputs and expected outputs; of larger pictures the first corner only."""
    with np.load(HERE / "data/transforms.npz") as file:
        return dict(file)


@pytest.fixture
def sample(arrays: dict[str, np.ndarray]) -> Sample:
    """A picture of 90 x 120 and its labels."""
    return Sample(image=arrays["img"].copy(), fields={"seg": LabelMap(arrays["lab"].copy())})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def make(config: dict[str, Any]) -> Any:
    config = {key: value for key, value in config.items() if key != "seg_pad_val"}  # always 255 here
    if isinstance(config.get("pad_val"), dict):
        config["pad_val"] = config["pad_val"]["img"]
    return CLASSES[config.pop("type")](**config)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_equals_the_reference(case: dict[str, Any], sample: Sample, arrays: dict[str, np.ndarray]) -> None:
    draws = Replay(case["seed"])
    for config in case["cfg"]:
        sample = make(dict(config))(sample, draws)
    expected, name = arrays[f"{case['name']}_img"], case["name"]
    corner = sample.image[: expected.shape[0], : expected.shape[1]]
    assert list(sample.size) == case["shape"]
    assert np.abs(corner.astype(int) - expected).max() <= TOLERANCE.get(name, 1)
    assert np.count_nonzero(sample["seg"].array != arrays[f"{name}_lab"]) <= (10 if name == "rotate_0" else 0)


PIPELINE = [
    {"type": "RandomResize", "scale": [200, 100], "ratio_range": [0.5, 2.0], "keep_ratio": True},
    {"type": "RandomCrop", "crop_size": [48, 64], "cat_max_ratio": 0.75},
    {"type": "RandomRotate", "prob": 0.5, "degree": 10},
    {"type": "RandomFlip", "prob": [0.3, 0.3, 0.3], "direction": ["horizontal", "vertical", "diagonal"]},
    {"type": "PhotoMetricDistortion"},
    {"type": "RandomCutOut", "prob": 0.5, "n_holes": [1, 3], "cutout_ratio": [0.1, 0.2]},
    {"type": "Pad", "size_divisor": 32},
]


def test_the_same_generator_gives_the_same_sample(sample: Sample) -> None:
    results = []
    for _ in range(2):
        result, draws = Sample(image=sample.image, fields=dict(sample.fields)), rng(3)
        for config in PIPELINE:
            result = make(dict(config))(result, draws)
        results.append(result)
    assert np.array_equal(results[0].image, results[1].image)
    assert np.array_equal(results[0]["seg"].array, results[1]["seg"].array)


def test_no_transform_writes_into_the_arrays_it_is_given(sample: Sample) -> None:
    sample.image.flags.writeable = sample["seg"].array.flags.writeable = False
    for seed in range(10):
        result, draws = Sample(image=sample.image, fields=dict(sample.fields)), rng(seed)
        for config in PIPELINE:
            result = make(dict(config))(result, draws)


def test_image_and_labels_move_together() -> None:
    squares = (np.indices((90, 120)).sum(0) // 15 % 2).astype(np.uint8)
    geometric = [config for config in PIPELINE if config["type"] in ("RandomResize", "RandomCrop", "RandomFlip")]
    for seed in range(10):
        draws = rng(seed)
        result = Sample(image=np.repeat(squares[..., None] * 255, 3, 2), fields={"seg": LabelMap(squares)})
        for config in [*geometric, {"type": "RandomRotate", "prob": 1, "degree": 20}]:
            result = make(dict(config))(result, draws)
        labels = result["seg"].array
        counted = labels != 255
        assert np.mean((result.image[..., 0] > 127)[counted] == labels[counted]) > 0.9


# ---------------------------------------------------------------- one by one


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"scale": (200, 100)}, (100, 200)),
        ({"scale": 64}, (64, 64)),
        ({"scale": (100, 200), "keep_ratio": True}, (100, 133)),  # long and short edge, whichever way it lies
        ({"scale_factor": 0.5}, (45, 60)),
        ({"scale_factor": (2.0, 0.5)}, (45, 240)),
    ],
)
def test_resize_counts_width_first(sample: Sample, arguments: dict[str, Any], size: tuple[int, int]) -> None:
    assert resize.Resize(**arguments)(sample, rng()).size == size


def test_random_resize_stays_in_its_range(sample: Sample) -> None:
    widths = [resize.RandomResize((120, 90), (0.5, 2.0), True)._draw(draws)[0] for draws in map(rng, range(200))]
    assert 60 <= min(widths) < 70
    assert 230 < max(widths) <= 240


def test_random_resize_between_two_scales() -> None:
    drawn = [resize.RandomResize([(40, 30), (80, 60)], keep_ratio=True)._draw(rng(seed)) for seed in range(50)]
    assert {40 <= long <= 80 and 30 <= short <= 60 for long, short in drawn} == {True}


def test_crop_size_counts_height_first(sample: Sample) -> None:
    assert place.RandomCrop((20, 50))(sample, rng()).size == (20, 50)


def test_crops_reach_every_corner(sample: Sample) -> None:
    crop = place.RandomCrop((89, 118))
    windows = [crop._draw(sample, rng(seed)) for seed in range(60)]
    assert {(window.top, window.left) for window in windows} == {(t, le) for t in (0, 1) for le in (0, 1, 2)}


def test_a_small_image_is_cropped_to_its_size(sample: Sample) -> None:
    assert place.RandomCrop((200, 60), cat_max_ratio=0.75)(sample, rng()).size == (90, 60)
    assert place.CenterCrop((300, 20))(sample, rng()).size == (20, 60)


def test_crop_avoids_windows_of_one_class() -> None:
    labels = np.full((100, 100), 255, np.uint8)
    labels[:, :95], labels[:, 97:] = 0, 1

    def share(ratio: float) -> float:
        samples = (Sample(image=np.zeros((100, 100, 3), np.uint8), fields={"seg": LabelMap(labels)}) for _ in range(60))
        crop = place.RandomCrop((20, 6), cat_max_ratio=ratio)
        return float(np.mean([len(np.unique(crop(s, rng(i))["seg"].array)) > 1 for i, s in enumerate(samples)]))

    assert share(0.9) > 3 * share(1.0)


def test_center_crop_counts_width_first(sample: Sample) -> None:
    middle = sample.image[30:60, 10:110].copy()
    assert np.array_equal(place.CenterCrop((100, 30))(sample, rng()).image, middle)


@pytest.mark.parametrize(("prob", "direction"), [(0.3, "horizontal"), ([0.2, 0.4], ["vertical", "diagonal"])])
def test_flips_have_the_given_probability(prob: Any, direction: Any) -> None:
    image = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    flip = place.RandomFlip(prob, direction)
    results = [tuple(flip(Sample(image=image), rng(seed)).image.ravel()) for seed in range(400)]
    shares = {pixels: results.count(pixels) / 400 for pixels in set(results)}
    expected = {"horizontal": (1, 0, 3, 2), "vertical": (2, 3, 0, 1), "diagonal": (3, 2, 1, 0)}
    pairs = zip([prob], [direction]) if isinstance(prob, float) else zip(prob, direction)
    assert {name: shares[expected[name]] for _, name in pairs} == pytest.approx(
        {name: p for p, name in (zip([prob], [direction]) if isinstance(prob, float) else zip(prob, direction))},
        abs=0.08,
    )


def test_a_mirror_swaps_left_and_right_labels() -> None:
    labels = np.array([[1, 2, 3, 255]], np.uint8)
    sample = Sample(image=np.zeros((1, 4, 3), np.uint8), fields={"seg": LabelMap(labels)})
    flipped = place.RandomFlip(1.0, swap_seg_labels=[(1, 2)])(sample, rng())
    assert flipped["seg"].array.tolist() == [[255, 3, 1, 2]]


def test_auto_bound_keeps_every_pixel(sample: Sample) -> None:
    ones = Sample(image=sample.image, fields={"seg": LabelMap(np.ones((90, 120), np.uint8))})
    turned = place.RandomRotate(1.0, (90, 90), auto_bound=True)(ones, rng())
    assert turned.size == (120, 90)
    assert (turned["seg"].array == 1).all()


def test_a_positive_angle_turns_clockwise() -> None:
    image = np.zeros((9, 9, 1), np.uint8)
    image[0, 4] = 255  # at the top
    assert place.RandomRotate(1.0, (90, 90))(Sample(image=image), rng()).image[4, 8] == 255  # at the right


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"size": (130, 100)}, (100, 130)),
        ({"size": (10, 100)}, (100, 120)),
        ({"size_divisor": 32}, (96, 128)),
        ({"pad_to_square": True}, (120, 120)),
        ({"pad_to_square": True, "size_divisor": 50}, (150, 150)),
    ],
)
def test_pad_counts_width_first(sample: Sample, arguments: dict[str, Any], size: tuple[int, int]) -> None:
    padded = place.Pad(**arguments, pad_val=(1, 2, 3))(sample, rng())
    assert padded.size == size
    assert padded.image[-1, -1].tolist() == [1, 2, 3]
    assert padded["seg"].array[-1, -1] == 255


def reference_distortion(image: np.ndarray, draws: Replay) -> np.ndarray:
    """The same steps in floating point, without tables."""
    import cv2

    def scaled(values: np.ndarray, factor: float = 1, shift: float = 0) -> np.ndarray:
        return np.clip(values.astype(np.float32) * factor + shift, 0, 255).astype(np.uint8)

    if draws.integers(2):
        image = scaled(image, shift=draws.uniform(-32, 32))
    contrast_first = draws.integers(2)
    if contrast_first and draws.integers(2):
        image = scaled(image, draws.uniform(0.5, 1.5))
    if draws.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = scaled(hsv[..., 1], draws.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if draws.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + draws.integers(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first and draws.integers(2):
        image = scaled(image, draws.uniform(0.5, 1.5))
    return image


def test_tables_give_the_same_colours_as_arithmetic(sample: Sample) -> None:
    for seed in range(40):
        expected = reference_distortion(sample.image, Replay(seed))
        distorted = color.PhotoMetricDistortion()(Sample(image=sample.image), Replay(seed)).image  # type: ignore[arg-type]
        difference = np.abs(distorted.astype(int) - expected)
        assert difference.mean() < 1.5  # one rounding through HSV instead of two
        assert np.quantile(difference, 0.99) <= 8


def test_grey_is_the_weighted_mean(sample: Sample) -> None:
    red = Sample(image=np.full((2, 2, 3), (100, 0, 0), np.uint8))
    grey = color.RGB2Gray()(red, rng()).image
    assert grey.shape == (2, 2, 3)
    assert np.unique(grey).tolist() == [30]
    assert color.RGB2Gray(out_channels=1)(sample, rng()).image.shape == (90, 120, 1)


def test_cut_out_covers_labels_only_when_asked(sample: Sample) -> None:
    before = sample["seg"].array.copy()
    covered = color.RandomCutOut(1.0, 3, cutout_shape=(10, 20), fill_in=(1, 2, 3))(sample, rng())
    assert np.array_equal(covered["seg"].array, before)
    assert (covered.image == (1, 2, 3)).all(2).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "Resize"},
        {"type": "Resize", "scale": 3, "scale_factor": 2.0},
        {"type": "RandomResize", "scale": [20, 10]},
        {"type": "RandomResize", "scale": [[20, 10], [40, 20]], "ratio_range": [1, 2]},
        {"type": "RandomChoiceResize", "scales": []},
        {"type": "RandomCrop", "crop_size": 0},
        {"type": "RandomFlip", "prob": [0.5, 0.5], "direction": ["horizontal"]},
        {"type": "RandomFlip", "prob": 1.5},
        {"type": "RandomRotate", "prob": 1, "degree": 5, "center": [1, 1], "auto_bound": True},
        {"type": "Pad"},
        {"type": "Pad", "size": [4, 4], "size_divisor": 32},
        {"type": "AdjustGamma", "gamma": 0},
        {"type": "RandomCutOut", "prob": 1, "n_holes": 1},
    ],
    ids=lambda config: str(config)[:50],
)
def test_arguments_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make(wrong)


def test_colour_transforms_refuse_other_images() -> None:
    deep = Sample(image=np.zeros((4, 4, 3), np.uint16), meta={"path": "deep.tif"})
    with pytest.raises(DataError, match=r"deep\.tif: .*uint16"):
        color.PhotoMetricDistortion()(deep, rng())
