"""The files of predictions: each format holds the prediction, and what reads it back finds the same."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segkernel import Predictor
from segkernel.errors import UsageError
from segplug_datasets import image, predict_images
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.rle import counts_of_text, from_coco, text_of_counts, to_coco
from segplug_datasets.georeference import affine_of, epsg_of
from segplug_datasets.predict.outputs import FORMATS
from segplug_datasets.predict.polygons import polygons
from segplug_datasets.predict.vectors import Coordinates, geopackage

CLASSES = ["background", "red", "blue"]


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(torch.nn.Conv2d(3, 3, 1), classes=CLASSES, palette=[(0, 0, 0), (255, 0, 0), (0, 0, 255)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        blocks = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        image.write(tmp_path / "in" / name, blocks.repeat(4, 0).repeat(4, 1))
    return tmp_path / "in"


def test_every_format_holds_the_prediction(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    out = tmp_path / "out"
    found = {each.meta["name"]: each for each in predict_images(predictor, photos, out, formats=list(FORMATS))}
    labels = found["b"].labels.numpy()
    probabilities = predictor(photos / "b.png", probabilities=True)["seg_probabilities"].numpy()
    assert np.array_equal(image.read_mask(out / "pred" / "b.png"), labels)
    assert np.array_equal(image.read(out / "colors" / "b.png"), np.array(predictor.palette, np.uint8)[labels])
    with np.load(out / "probabilities" / "b.npz") as file:
        assert np.allclose(file["probabilities"], probabilities, atol=1e-6)
        assert file["classes"].tolist() == CLASSES
    stored = tifffile.imread(out / "probabilities" / "b.tif")
    assert np.abs(stored / 255.0 - probabilities).max() <= 0.5 / 255 + 1e-6
    rows = list(csv.reader((out / "shares.csv").open()))
    assert rows[0] == ["image", "width", "height", *CLASSES]
    assert [row[0] for row in rows[1:]] == ["a", "b"]
    assert [float(share) for share in rows[2][3:]] == pytest.approx(
        [100 * float((labels == index).mean()) for index in range(3)], abs=1e-4
    )
    features = json.loads((out / "polygons" / "b.geojson").read_text())["features"]
    areas = dict.fromkeys(CLASSES, 0.0)
    for feature in features:
        areas[feature["properties"]["class"]] += sum(area(ring) for ring in feature["geometry"]["coordinates"])
    assert areas == {"background": 0, "red": (labels == 1).sum(), "blue": (labels == 2).sum()}


def test_run_lengths_are_read_back_by_the_coco_data_set(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    found = list(predict_images(predictor, photos, tmp_path / "out", formats=["rle"]))
    dataset = CocoInstanceDataset(tmp_path / "out" / "predictions.json", photos)
    assert dataset.labels.classes == tuple(CLASSES)
    for sample, prediction in zip([dataset[0], dataset[1]], found):
        assert np.array_equal(sample["seg"].array, prediction.labels.numpy())


def test_polygons_of_a_geotiff_are_in_its_coordinates(predictor: Predictor, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    keys = (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32632)
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0, 0, 5e5, 4e6, 0), True),
        (34735, "H", len(keys), keys, True),
    ]
    pixels = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8)
    tifffile.imwrite(tmp_path / "scene.tif", pixels, photometric="rgb", extratags=tags)
    (found,) = predict_images(predictor, tmp_path / "scene.tif", tmp_path / "out", formats=["polygons"])
    content = json.loads((tmp_path / "out" / "polygons" / "scene.geojson").read_text())
    assert content["crs"]["properties"]["name"].endswith("EPSG::32632")
    rings = [np.array(ring) for each in content["features"] for ring in each["geometry"]["coordinates"]]
    assert sum(map(area, rings)) == 100 * float((found.labels != 0).sum())
    points = np.concatenate(rings)
    assert points.min(0).tolist() >= [5e5, 4e6 - 80]
    assert points.max(0).tolist() <= [5e5 + 100, 4e6]


def test_a_tie_at_a_pixel_s_centre_is_half_a_pixel_off() -> None:
    tags: list[Any] = [(33550, "d", 3, (2.0, 2.0, 0.0), True), (33922, "d", 6, (0, 0, 0, 100.0, 200.0, 0), True)]
    assert affine_of(tags) == (2, 0, 100, 0, -2, 200)
    assert affine_of([*tags, (34735, "H", 8, (1, 1, 0, 1, 1025, 0, 1, 2), True)]) == (2, 0, 99, 0, -2, 201)
    assert affine_of([]) is None
    assert epsg_of([]) is None


def test_a_geopackage_has_its_polygons(tmp_path: Path) -> None:
    ring = np.array([[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]) + 5e5
    with geopackage(tmp_path / "a.gpkg", Coordinates(32632, "WKT")) as file:
        file.add("road", 2, [ring[::-1]])
    with sqlite3.connect(tmp_path / "a.gpkg") as connection:
        ((blob, name, class_id),) = connection.execute("SELECT geom, class, class_id FROM classes").fetchall()
        ((bounds),) = connection.execute("SELECT min_x, min_y, max_x, max_y, srs_id FROM gpkg_contents").fetchall()
        assert connection.execute("PRAGMA application_id").fetchone() == (0x47504B47,)
    connection.close()
    assert (name, class_id, bounds) == ("road", 2, (5e5, 5e5, 5e5 + 4, 5e5 + 3, 32632))
    assert np.array_equal(np.frombuffer(blob[8 + 9 + 4 :]).reshape(-1, 2), ring)


def area(ring: Any) -> float:
    """Signed area of a closed ring."""
    points = np.asarray(ring, float) - ring[0]
    return float(np.sum(points[:-1, 0] * points[1:, 1] - points[1:, 0] * points[:-1, 1])) / 2


MASKS = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_polygons_fill_exactly_the_mask(mask: np.ndarray) -> None:
    seen = np.zeros(mask.shape, int)
    for rings in polygons(mask):
        assert area(rings[0]) > 0
        assert all(area(hole) < 0 for hole in rings[1:])
        inside = [crossings(ring, mask.shape) for ring in rings]
        seen += inside[0] & ~np.logical_or.reduce([*inside[1:], np.zeros(mask.shape, bool)])
        for ring in rings:  # a valid ring visits a point once
            assert len({tuple(point) for point in ring[:-1].tolist()}) == len(ring) - 1
    assert np.array_equal(seen, mask)


def crossings(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether the centre of each pixel is inside, by the number of vertical edges to its left."""
    count = np.zeros(shape, int)
    for (x, top), (other, bottom) in zip(ring[:-1].tolist(), ring[1:].tolist()):
        if x == other:
            count[min(top, bottom) : max(top, bottom), x:] += 1
    return count % 2 == 1


@given(MASKS)
@settings(max_examples=100, deadline=None)
def test_run_lengths_are_decoded_to_the_mask(mask: np.ndarray) -> None:
    drawn = np.zeros(mask.shape, bool)
    from_coco(to_coco(mask), mask.shape).paint(drawn, True)  # type: ignore[arg-type]
    assert np.array_equal(drawn, mask)


@given(st.lists(st.integers(0, 2**29), max_size=12))
def test_run_lengths_of_any_size_are_decoded(counts: list[int]) -> None:
    assert counts_of_text(text_of_counts(np.array(counts, np.int64))).tolist() == counts


@pytest.mark.parametrize(("formats", "said"), [(["label"], "did you mean 'labels'"), (["nothing"], "nothing")])
def test_an_unknown_format_is_named(predictor: Predictor, photos: Path, formats: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        list(predict_images(predictor, photos, "out", formats=formats))
