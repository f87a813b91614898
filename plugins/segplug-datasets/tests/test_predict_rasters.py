"""Prediction of every input that a config's data set reads: rasters, grey images, volumes, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Predictor
from segkernel.errors import DataError, UsageError
from segplug_datasets import predict_images
from segplug_datasets.raster import RasterDataset
from segplug_datasets.volumes import VolumeDataset

rng = np.random.default_rng(0)


def predictor(kind: str, **arguments: Any) -> Predictor:
    """Return a predictor whose config names a data set that is not there."""
    torch.manual_seed(0)
    spec = {"type": kind, "images": "gone", "masks": "gone", **arguments}
    model = {"type": "segkernel.testing.toys:ToySegmentor"}
    return Predictor(
        {"model": model, "data": {"test": spec, "preprocess": {"mean": [0.0] * 3, "std": [9.0] * 3}}},
        random_weights=True,
    )


def test_a_raster_is_predicted_as_its_data_set_would_give_it(tmp_path: Path) -> None:
    array = rng.integers(0, 3000, (32, 48, 5), np.uint16)
    np.save(tmp_path / "a.npy", array)
    options: dict[str, Any] = {"bands": [4, 0, 2], "value_range": [0, 3000]}
    found = predictor("RasterDataset", **options)
    wanted = RasterDataset(tmp_path, **options)[0].image
    assert np.array_equal(found.read(tmp_path / "a.npy"), wanted)
    assert np.array_equal(found.read(array), wanted)
    assert wanted.dtype == np.uint8
    assert torch.equal(found(tmp_path / "a.npy").labels, found(array).labels)
    assert found(array).labels.shape == (32, 48)


@pytest.mark.parametrize("options", [{"percentiles": (2, 98)}, {"scale": 0.5}, {"nodata": 7}])
def test_an_array_gets_the_values_that_its_file_would(tmp_path: Path, options: dict[str, Any]) -> None:
    array = rng.integers(0, 300, (20, 30, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    reader = RasterDataset.image_reader(**options)
    assert np.array_equal(reader(array), RasterDataset(tmp_path, **options)[0].image)


def test_an_array_with_too_few_bands_is_refused() -> None:
    with pytest.raises(DataError, match="2 bands, but 'bands' has 4"):
        predictor("RasterDataset", bands=[4, 0, 2]).read(np.zeros((8, 8, 2), np.uint16))


def test_where_no_data_set_says_otherwise_an_array_is_rgb() -> None:
    plain = Predictor(torch.nn.Conv2d(3, 2, 1), classes=["a", "b"])
    with pytest.raises(UsageError, match="this is uint16"):
        plain(np.zeros((8, 8, 3), np.uint16))


def test_a_geotiff_gives_a_geotiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    scale, tie = (33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0, 0, 5e5, 4e6, 0), True)
    array = rng.integers(0, 255, (32, 40, 3), np.uint8)
    tifffile.imwrite(tmp_path / "scene.tif", array, photometric="rgb", extratags=[scale, tie])
    found = predictor("RasterDataset")
    list(predict_images(found, tmp_path / "scene.tif", tmp_path / "out"))
    with tifffile.TiffFile(tmp_path / "out" / "pred" / "scene.tif") as file:
        assert file.pages[0].tags[33550].value == scale[3]
        assert file.pages[0].tags[33922].value == tie[3]
        assert np.array_equal(file.asarray(), found(tmp_path / "scene.tif").labels.numpy())
    assert (tmp_path / "out" / "vis" / "scene.png").exists()


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_volume_gives_a_volume_with_its_affine(tmp_path: Path, axis: Any) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = rng.normal(size=(40, 36, 34)).astype(np.float32)  # X, Y, Z
    affine = np.diag([2.0, 3.0, -4.0, 1.0])
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "in" / "scan.nii.gz")
    options: dict[str, Any] = {"axis": axis, "window": [-1, 1], "context": 1}
    found = predictor("VolumeDataset", **options)
    slices = VolumeDataset(tmp_path / "in", **options)
    assert [np.array_equal(a, b.image) for a, b in zip(found.read(tmp_path / "in" / "scan.nii.gz"), slices)]
    (prediction,) = predict_images(found, tmp_path / "in", tmp_path / "out")
    written = nibabel.load(tmp_path / "out" / "pred" / "scan.nii.gz")
    assert written.shape == values.shape
    assert np.allclose(written.affine, affine)
    one = found(tmp_path / "in" / "scan.nii.gz")[3].labels.numpy()
    place = {"z": np.s_[:, :, 3], "y": np.s_[:, 3, :], "x": np.s_[3, :, :]}[axis]
    assert np.array_equal(np.asarray(written.dataobj)[place].T, one)
    assert np.array_equal(prediction.labels[3].numpy(), one)
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["pred"]  # pictures are of single images
