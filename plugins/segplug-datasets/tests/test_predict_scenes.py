"""Large rasters in windows: predictions, georeference, polygons and shares are those of the whole raster."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.errors import UsageError
from segplug_datasets import raster_file
from segplug_datasets.predict.scenes import predict_raster

rasterio: Any = pytest.importorskip("rasterio")

CLASSES = ["background", "field", "water"]


class Strided(torch.nn.Module):
    """Stride 4, receptive field of 35 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(3, 4, 7, stride=4, padding=3)
        self.head = torch.nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, images: Any) -> Any:
        return self.head(torch.relu(self.down(images)))


@pytest.fixture
def predictor() -> Predictor:
    torch.manual_seed(0)
    return Predictor(Strided(), classes=CLASSES, palette=[(0, 0, 0), (200, 160, 40), (30, 60, 200)])


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A tiled, georeferenced raster of 3 bands, the lower right corner without data."""
    pixels = np.random.default_rng(0).integers(1, 256, (3, 15, 20)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    pixels[:, 100:, 130:] = 0
    profile = {"driver": "GTiff", "width": 160, "height": 120, "count": 3, "dtype": "uint8", "nodata": 0}
    place = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(5e5, 4e6, 10, 10)}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, **place, **tiles) as file:
        file.write(pixels)
    return tmp_path / "scene.tif"


def test_windows_give_the_labels_of_the_whole_raster(predictor: Predictor, scene: Path, tmp_path: Path) -> None:
    windows = list(predict_raster(predictor, scene, tmp_path / "out", window=64, margin=32))
    assert len(windows) == 6
    with rasterio.open(scene) as source:
        whole = predictor(source.read().transpose(1, 2, 0)).labels.numpy().copy()
        missing = (source.read() == 0).all(0)
    whole[missing] = 255
    with rasterio.open(tmp_path / "out" / "pred" / "scene.tif") as file:
        assert np.array_equal(file.read(1), whole)
        assert file.crs.to_epsg() == 32632
        assert file.transform == rasterio.transform.from_origin(5e5, 4e6, 10, 10)
        assert file.nodata == 255
        assert file.colormap(1)[2][:3] == (30, 60, 200)
        assert file.block_shapes == [(256, 256)]
    list(predict_raster(predictor, scene, tmp_path / "none", window=64, margin=0))
    with rasterio.open(tmp_path / "none" / "pred" / "scene.tif") as file:
        assert not np.array_equal(file.read(1), whole)  # the margin matters


def test_polygons_and_shares_are_those_of_the_labels(predictor: Predictor, scene: Path, tmp_path: Path) -> None:
    formats = ["polygons", "geopackage", "shares", "probabilities-tiff"]
    list(predict_raster(predictor, scene, tmp_path / "out", window=64, margin=32, formats=formats))
    with rasterio.open(tmp_path / "out" / "pred" / "scene.tif") as file:
        labels = file.read(1)
    expected = {name: 100.0 * int((labels == index).sum()) for index, name in enumerate(CLASSES) if index}
    features = json.loads((tmp_path / "out" / "polygons" / "scene.geojson").read_text())["features"]
    found = dict.fromkeys(expected, 0.0)
    for feature in features:
        found[feature["properties"]["class"]] += sum(area(ring) for ring in feature["geometry"]["coordinates"])
    assert found == expected
    with sqlite3.connect(tmp_path / "out" / "polygons" / "scene.gpkg") as database:
        assert database.execute("SELECT count(*) FROM classes").fetchone() == (len(features),)
        assert database.execute("SELECT srs_id FROM gpkg_contents").fetchone() == (32632,)
    database.close()
    (row,) = list(csv.reader((tmp_path / "out" / "scene_shares.csv").open()))[1:]
    counts = np.bincount(labels[labels != 255], minlength=3)
    assert [float(value) for value in row[3:]] == pytest.approx((100 * counts / counts.sum()).tolist(), abs=1e-4)
    with rasterio.open(tmp_path / "out" / "probabilities" / "scene.tif") as file:
        bands = file.read()
    there = labels != 255
    assert bands.shape == (3, 120, 160)
    assert (bands.max(0)[there] == np.take_along_axis(bands, labels.clip(0, 2)[None], 0)[0][there]).all()


def test_an_overlay_is_drawn_in_windows(predictor: Predictor, scene: Path, tmp_path: Path) -> None:
    list(predict_raster(predictor, scene, tmp_path, window=64, margin=32, formats=["overlays"], opacity=1))
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "pred" / "scene.tif") as file:
        pixels, labels = source.read(), file.read(1)
    with rasterio.open(tmp_path / "vis" / "scene.tif") as file:
        drawn = file.read()
        assert file.crs.to_epsg() == 32632
    assert (drawn[:, labels == 1] == [[200], [160], [40]]).all()
    plain = (labels == 0) | (labels == 255)
    assert np.array_equal(drawn[:, plain], pixels[:, plain])


def area(ring: Any) -> float:
    points = np.asarray(ring, float) - ring[0]
    return float(np.sum(points[:-1, 0] * points[1:, 1] - points[1:, 0] * points[:-1, 1])) / 2


def test_bands_are_read_as_the_config_s_data_set_reads_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (5, 64, 80)).astype(np.uint16)
    profile = {"driver": "GTiff", "width": 80, "height": 64, "count": 5, "dtype": "uint16"}
    with rasterio.open(tmp_path / "bands.tif", "w", **profile) as file:
        file.write(values)
    torch.manual_seed(0)
    model = {"type": "segkernel.testing.toys:ToySegmentor", "num_classes": 2, "in_channels": 2}
    data = {"type": "RasterDataset", "images": "gone", "bands": [4, 1], "value_range": [0, 4000]}
    sections = {"test": data, "preprocess": {"mean": [128.0] * 2, "std": [60.0] * 2}}
    predictor = Predictor({"model": model, "data": sections}, random_weights=True)
    list(predict_raster(predictor, tmp_path / "bands.tif", tmp_path / "out", window=32, margin=16))
    with rasterio.open(tmp_path / "out" / "pred" / "bands.tif") as file:
        assert np.array_equal(file.read(1), predictor(tmp_path / "bands.tif").labels.numpy())


def test_a_compression_that_only_gdal_reads_here_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = raster_file.find_spec
    monkeypatch.setattr(raster_file, "find_spec", lambda name: None if name == "imagecodecs" else find(name))
    values = np.random.default_rng(0).integers(0, 4000, (4, 50, 70)).astype(np.uint16)
    profile = {"driver": "GTiff", "width": 70, "height": 50, "count": 4, "dtype": "uint16", "compress": "lzw"}
    with rasterio.open(tmp_path / "lzw.tif", "w", nodata=7, **profile) as file:
        file.write(values)
    opened = raster_file.open_raster(str(tmp_path / "lzw.tif"))
    assert (opened.size, opened.bands, opened.nodata) == ((50, 70), 4, 7)
    found = opened.read(raster_file.Window(5, 10, 30, 40), [3, 0])
    assert np.array_equal(found, values[[3, 0], 5:35, 10:50].transpose(1, 2, 0))


def test_bad_arguments_are_one_message(predictor: Predictor, scene: Path, tmp_path: Path) -> None:
    for options, said in (({"window": 0}, "window 0"), ({"formats": ["colors"]}, "'colors' of a raster")):
        with pytest.raises(UsageError, match=said):
            list(predict_raster(predictor, scene, tmp_path / "out", **options))  # type: ignore[arg-type]
