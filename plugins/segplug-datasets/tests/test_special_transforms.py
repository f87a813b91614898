"""Borders, image pairs, depth strips, and the Albumentations wrapper."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.sample import DepthMap, LabelMap, Sample
from segplug_datasets.change import SecondImage
from segplug_datasets.fields import Boxes, EdgeMap
from segplug_datasets.metrics.depth import DEPTH_METRICS, DepthMetric
from segplug_datasets.transforms.albu import Albu, AlbumentationsMissingError
from segplug_datasets.transforms.special import ConcatCDInput, GenerateEdge, RandomDepthMix

HERE = Path(__file__).parent


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def made(*fields: str, size: tuple[int, int] = (12, 16)) -> Sample:
    """A sample whose image and fields all hold one pattern."""
    pattern = np.add.outer(np.arange(size[0]), np.arange(size[1])).astype(np.uint8)
    kinds: dict[str, Any] = {"seg": LabelMap, "img2": SecondImage, "edge": EdgeMap, "depth": DepthMap}
    arrays = {"img2": np.stack([pattern] * 3, 2), "depth": pattern.astype(np.float32)}
    return Sample(
        fields={name: kinds[name](arrays.get(name, pattern).copy()) for name in fields},
        image=np.stack([pattern] * 3, 2),
    )


# ---------------------------------------------------------------- borders


@pytest.mark.parametrize(("name", "arguments"), [("gen_edge", {"edge_width": 4}), ("gen_edge1", {"edge_width": 1})])
def test_borders_equal_the_reference(name: str, arguments: dict[str, Any]) -> None:
    labels = np.load(HERE / "data/transforms.npz")["lab"]
    bits = np.load(HERE / "data/edges.npz")[name]
    sample = GenerateEdge(**arguments)(Sample({"seg": LabelMap(labels)}, image=np.zeros((*labels.shape, 3))), rng())
    assert isinstance(sample["edge"], EdgeMap)
    assert sample["edge"].array.dtype == np.uint8
    assert np.array_equal(sample["edge"].array, np.unpackbits(bits)[: labels.size].reshape(labels.shape))


def test_ignored_pixels_have_no_borders() -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 255
    sample = Sample({"seg": LabelMap(labels)}, image=np.zeros((4, 6, 3), np.uint8))
    assert not GenerateEdge(edge_width=1)(sample, rng())["edge"].array.any()
    labels[:, 3:] = 1
    edge = GenerateEdge(edge_width=1)(sample, rng())["edge"].array
    assert edge.any(0).tolist() == [False, False, True, True, False, False]


def test_borders_need_labels_and_a_width() -> None:
    with pytest.raises(DataError, match="needs labels"):
        GenerateEdge()(made(), rng())
    with pytest.raises(UsageError, match="1 pixel"):
        GenerateEdge(edge_width=0)


# ---------------------------------------------------------------- pairs and depth


def test_a_pair_needs_its_second_image() -> None:
    with pytest.raises(DataError, match="no field 'img2'"):
        ConcatCDInput()(made("seg"), rng())
    joined = ConcatCDInput(input_keys=["img2", "img"])(made("seg", "img2"), rng())
    assert joined.image.shape == (12, 16, 6)


def test_a_strip_shows_the_depth() -> None:
    before = made("depth")
    after = RandomDepthMix(prob=1.0)(made("depth"), rng(1))
    changed = (after.image != before.image).any((0, 2)).nonzero()[0]
    assert changed.size
    assert changed.tolist() == list(range(changed[0], changed[-1] + 1))
    strip = np.s_[:, changed[0] : changed[-1] + 1]
    expected = (before["depth"].array[strip] * (255 / 26)).astype(np.uint8)
    assert np.array_equal(after.image[strip], np.stack([expected] * 3, 2))


def test_a_strip_is_drawn_with_the_given_probability() -> None:
    plain = made("depth").image
    drawn = sum(bool((RandomDepthMix(0.25)(made("depth"), rng(i)).image != plain).any()) for i in range(400))
    assert 60 < drawn < 140
    assert np.array_equal(RandomDepthMix(1.0)(made("seg"), rng()).image, plain)


# ---------------------------------------------------------------- Albumentations


def test_the_wrapper_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(AlbumentationsMissingError, match=r"pip install 'segplug-datasets\[albumentations\]'"):
        Albu([{"type": "HorizontalFlip"}])


@pytest.fixture
def albumentations() -> None:
    """Skips where the extra is missing."""
    if importlib.util.find_spec("albumentations") is None:
        pytest.skip("albumentations is not installed")


FIELDS = ("seg", "img2", "edge", "depth")


@pytest.mark.usefixtures("albumentations")
def test_everything_moves_together() -> None:
    sample = Albu([{"type": "HorizontalFlip", "p": 1}, {"type": "RandomCrop", "height": 8, "width": 10}])(
        made(*FIELDS), rng()
    )
    assert sample.image.shape == (8, 10, 3)
    assert sample.moved == "Albu"
    for name in ("seg", "edge", "depth"):
        assert np.array_equal(sample[name].array, sample.image[..., 0])
    assert np.array_equal(sample["img2"].array, sample.image)
    assert sample["depth"].array.dtype == np.float32


@pytest.mark.usefixtures("albumentations")
def test_what_comes_in_from_outside_does_not_count() -> None:
    sample = Albu([{"type": "Rotate", "limit": (45, 45), "p": 1}])(made("seg", "edge"), rng())
    assert (sample["seg"].array[0, 0], sample["edge"].array[0, 0]) == (255, 0)


@pytest.mark.usefixtures("albumentations")
def test_colours_change_images_only() -> None:
    before, boxes = made(*FIELDS), Boxes(np.zeros((1, 4), np.float32))
    before["boxes"] = boxes
    gamma = Albu([{"type": "RandomBrightnessContrast", "brightness_limit": (0.3, 0.3), "p": 1}])
    after = gamma(before, rng())
    assert (after.image != made().image).any()
    assert np.array_equal(after["img2"].array, after.image)
    assert np.array_equal(after["seg"].array, made("seg")["seg"].array)
    assert (after["boxes"], after.moved) == (boxes, "")
    with pytest.raises(DataError, match="cannot move the field 'boxes'"):
        Albu([{"type": "HorizontalFlip"}])(after, rng())


@pytest.mark.usefixtures("albumentations")
def test_transforms_draw_independently_and_repeatably() -> None:
    flips = pickle.loads(pickle.dumps(Albu([{"type": "HorizontalFlip"}, {"type": "VerticalFlip"}])))
    corners = [flips(made("seg"), rng(seed))["seg"].array[0, 0] for seed in range(200)]
    assert corners == [flips(made("seg"), rng(seed))["seg"].array[0, 0] for seed in range(200)]
    assert sorted(Counter(corners)) == [0, 11, 15, 26]
    assert min(Counter(corners).values()) > 25


@pytest.mark.usefixtures("albumentations")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"type": "HorizontalFlop"},
            r"transforms\[0\]: .* no transform 'HorizontalFlop': did you mean 'HorizontalFlip'",
        ),
        ({"type": "OneOf", "transforms": [{"p": 1}]}, r"transforms\[0\].transforms\[0\]: .* no transform None"),
        ({"type": "Rotate", "fill_mask": 255}, "leave out 'fill_mask'"),
        ({"type": "HorizontalFlip", "p": "often"}, "invalid arguments"),
        ({"type": "Rotate", "limt": 20}, "Rotate: invalid arguments: .*limt"),
    ],
)
def test_transforms_that_the_wrapper_refuses(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Albu([spec])


# ---------------------------------------------------------------- the metric of depth

CASES = json.loads((HERE / "data/depth_metric.json").read_text())


@pytest.fixture(scope="module")
def depths() -> list[tuple[np.ndarray, np.ndarray]]:
    """Estimates and truths of two images, as the reference had them."""
    state = np.random.RandomState(99)
    pairs = []
    for _ in range(2):
        truth = state.uniform(-0.5, 12, (480, 640)).astype(np.float32)
        pairs.append(((np.abs(truth) * state.uniform(0.7, 1.4, truth.shape) + 0.05).astype(np.float32), truth))
    return pairs


@pytest.mark.parametrize("case", CASES, ids=[str(case["kwargs"]) for case in CASES])
def test_depth_metrics_equal_the_reference(case: dict[str, Any], depths: list[tuple[np.ndarray, np.ndarray]]) -> None:
    halves = [DepthMetric(**case["kwargs"]) for _ in depths]
    for metric, (estimate, truth) in zip(halves, depths):
        metric.update(estimate, truth)
    halves[0].merge(halves[1])
    assert halves[0].compute() == pytest.approx(case["result"], rel=2e-5)


def test_depth_metrics_by_hand() -> None:
    metric = DepthMetric()
    metric.update(np.array([[2.0, 1.0, -3.0, 9.0]]), np.array([[1.0, 1.0, 4.0, 0.0]]))
    metrics = metric.compute()
    assert list(metrics) == list(DEPTH_METRICS)
    assert metrics["d3"] == pytest.approx(1 / 3)  # an estimate below 0 is never right, and 0 was not measured
    assert metrics["abs_rel"] == pytest.approx((1 + 0 + 1) / 3, rel=1e-5)
    assert metrics["rmse"] == pytest.approx(np.sqrt((1 + 0 + 16) / 3), rel=1e-5)


def test_images_without_measurements_do_not_count() -> None:
    metric, half = DepthMetric(depth_metrics=["rmse"]), np.full((2, 2), 0.5)
    assert np.isnan(metric.compute()["rmse"])
    metric.update(half, np.zeros((2, 2)))
    assert np.isnan(metric.compute()["rmse"])
    metric.update(half[None], half)
    assert metric.compute() == {"rmse": 0.0}


def test_depth_metric_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(UsageError, match="not ard"):
        DepthMetric(depth_metrics=["ard"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="not none"):
        DepthMetric(depth_metrics=[])
    with pytest.raises(UsageError, match="kitti"):
        DepthMetric(crop_type="kitti")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="shape"):
        DepthMetric().update(np.ones((2, 3)), np.ones((3, 2)))
