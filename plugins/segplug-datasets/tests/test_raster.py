"""Rasters: bands, data types, value ranges, no-data pixels, windows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segplug_datasets import image, raster_file
from segplug_datasets.geometry import Flip, Resize
from segplug_datasets.raster import RasterDataset
from segplug_datasets.raster_file import Window, open_raster

RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 10_000, (70, 90, 5), np.uint16)
IDS = RNG.integers(0, 3, (70, 90), np.uint8)
LABELS = ["water", "wood", "field"]


def write_arrays(folder: Path, scene: np.ndarray = SCENE, ids: np.ndarray = IDS, name: str = "a") -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    np.save(folder / f"images/{name}.npy", scene)
    image.write_mask(folder / f"masks/{name}.png", ids)


def load(folder: Path, **arguments: Any) -> RasterDataset:
    return RasterDataset("images", "masks", LABELS, data_root=folder, **arguments)


def write_tiff(path: Path, array: np.ndarray, **arguments: Any) -> Path:
    tifffile = pytest.importorskip("tifffile")
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **arguments)
    return path


# ---------------------------------------------------------------- files

BANDS_LAST = {"photometric": "minisblack", "planarconfig": "contig"}
BANDS_FIRST = {"photometric": "minisblack", "planarconfig": "separate"}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("planar", ["contig", "separate", "pages"])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"rowsperstrip": 8},
        {"tile": (32, 16)},
        {"tile": (32, 16), "compression": "zlib"},
        {"rowsperstrip": 8, "compression": "zlib"},
        {"tile": (16, 16), "compression": "lzw", "predictor": True},
        {"tile": (16, 16), "bigtiff": True, "byteorder": ">"},
        {"byteorder": ">"},
    ],
)
def test_windows_of_a_tiff_are_those_of_its_array(
    tmp_path: Path, dtype: str, planar: str, layout: dict[str, Any]
) -> None:
    if "lzw" in layout.values():
        pytest.importorskip("imagecodecs")
    scene = (SCENE % 256 if dtype == "uint8" else SCENE).astype(dtype)
    if planar == "contig":
        write_tiff(tmp_path / "a.tif", scene, **BANDS_LAST, **layout)
    else:
        plane = BANDS_FIRST if planar == "separate" else {"photometric": "minisblack"}
        write_tiff(tmp_path / "a.tif", np.ascontiguousarray(scene.transpose(2, 0, 1)), **plane, **layout)
    file = open_raster(str(tmp_path / "a.tif"))
    assert (file.size, file.bands, file.nodata) == ((70, 90), 5, None)
    for window in (Window(0, 0, 70, 90), Window(13, 7, 40, 51), Window(69, 89, 1, 1), Window(32, 16, 32, 16)):
        top, left, height, width = window
        found = file.read(window, [4, 0, 4])
        assert found.dtype == np.dtype(dtype)
        assert (found == scene[top : top + height, left : left + width][..., [4, 0, 4]]).all()
        assert found.flags.writeable


def test_only_the_tiles_of_a_window_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = np.tile(SCENE, (8, 8, 1))
    path = write_tiff(tmp_path / "a.tif", big, tile=(64, 64), compression="zlib", **BANDS_LAST)
    read: list[int] = []
    touched = raster_file._touched
    monkeypatch.setattr(raster_file, "_touched", lambda *given: read.extend(touched(*given)) or read)
    found = open_raster(str(path)).read(Window(60, 60, 10, 10), [0])
    assert (found == big[60:70, 60:70, :1]).all()
    across = -(-big.shape[1] // 64)
    assert read == [0, 1, across, across + 1]


def test_an_overview_is_not_a_band(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(SCENE, subifds=1, tile=(32, 32), **BANDS_LAST)
        writer.write(SCENE[::2, ::2], subfiletype=1, tile=(32, 32), **BANDS_LAST)
    assert open_raster(str(tmp_path / "a.tif")).size == (70, 90)
    assert open_raster(str(tmp_path / "a.tif")).bands == 5


def test_unusable_files_are_named(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", SCENE, compression="zlib", **BANDS_LAST)
    content = path.read_bytes()
    for name, damaged in {"cut": content[:2000], "text": b"II*\0 no", "empty": b""}.items():
        (tmp_path / f"{name}.tif").write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}\.tif: cannot be read"):
            open_raster(str(tmp_path / f"{name}.tif")).read(Window(0, 0, 70, 90), [0])
    (tmp_path / "a.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.npy: cannot be read as an array of numbers"):
        open_raster(str(tmp_path / "a.npy"))
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"height, width, bands"):
        open_raster(str(tmp_path / "b.npy"))
    for name in ("none.tif", "none.npy", "none.png"):
        with pytest.raises(DataError, match=rf"{name}: no such file"):
            open_raster(str(tmp_path / name))


def test_a_missing_tifffile_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    code = (
        "import sys; sys.modules['tifffile'] = None\n"
        "from segplug_datasets.raster_file import open_raster\n"
        "try:\n    open_raster(sys.argv[1])\n"
        "except Exception as error:\n    print(error.exit_code, error)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.tif")], capture_output=True, text=True)
    assert result.stdout == (
        "3 reading rasters needs tifffile, which is not installed\n    pip install 'segplug-datasets[raster]'\n"
    )


# ---------------------------------------------------------------- values


def test_bands_come_in_the_order_asked_for_and_as_real_numbers(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    sample = load(tmp_path, bands=[3, 0], scale=0.0001)[0]
    assert sample.image.dtype == np.float32
    assert np.allclose(sample.image, SCENE[..., [3, 0]] * 0.0001)
    assert (sample["seg"].array == IDS).all()
    assert sample.meta["name"] == "a"


def test_eight_bits_stay_as_they_are(tmp_path: Path) -> None:
    scene = (SCENE % 256).astype(np.uint8)
    write_arrays(tmp_path, scene)
    sample = load(tmp_path)[0]
    assert sample.image.dtype == np.uint8
    assert (sample.image == scene).all()


def test_a_range_is_mapped_to_0_to_255(tmp_path: Path) -> None:
    write_arrays(tmp_path, np.array([[[0, 1000], [500, 2000], [5000, 9000]]], np.uint16), np.zeros((1, 3), np.uint8))
    assert load(tmp_path, value_range=(0, 1000))[0].image.tolist() == [[[0, 255], [128, 255], [255, 255]]]
    each = load(tmp_path, value_range=[(0, 1000), (1000, 3000)], dtype="float32")[0].image
    assert each.tolist() == [[[0, 0], [127.5, 127.5], [255, 255]]]


def test_percentiles_are_those_of_the_whole_raster(tmp_path: Path) -> None:
    scene = np.arange(101, dtype=np.float32).reshape(1, 101, 1).repeat(2, 2) * [1, 10]
    write_arrays(tmp_path, scene.astype(np.float32), np.zeros((1, 101), np.uint8))
    dataset = load(tmp_path, percentiles=(10, 60), window=(1, 20), dtype="float32")
    assert np.allclose(dataset[1].image[0, :, 0], (np.arange(20, 40) - 10) / 50 * 255)
    assert np.allclose(dataset[1].image[0, :, 1], dataset[1].image[0, :, 0])


def test_percentiles_of_a_large_raster_look_at_parts(tmp_path: Path) -> None:
    scene = np.broadcast_to(np.linspace(0, 1000, 3000, dtype=np.float32)[:, None, None], (3000, 2000, 1))
    write_arrays(tmp_path, scene, np.zeros((3000, 2000), np.uint8))
    found = load(tmp_path, percentiles=(0, 100), window=(10, 10))[0].image
    assert found.max() <= 1


def test_gaps_are_0_in_the_image_and_255_in_the_label_map(tmp_path: Path) -> None:
    scene = np.array([[[1, 2], [-9, 5], [-9, -9], [np.nan, 3], [np.nan, -9]]], np.float32)
    write_arrays(tmp_path, scene, np.ones((1, 5), np.uint8))
    sample = load(tmp_path, nodata=-9, scale=2)[0]
    assert sample.image.tolist() == [[[2, 4], [0, 10], [0, 0], [0, 6], [0, 0]]]
    assert sample["seg"].array.tolist() == [[1, 1, 255, 1, 255]]
    assert load(tmp_path, nodata=None, value_range=(-10, 10))[0]["seg"].array.tolist() == [[1, 1, 1, 1, 1]]


def test_gaps_do_not_count_for_percentiles(tmp_path: Path) -> None:
    write_arrays(tmp_path, np.array([[[-9999], [0], [10], [20]]], np.float32), np.ones((1, 4), np.uint8))
    assert load(tmp_path, nodata=-9999, percentiles=(0, 100))[0].image.ravel().tolist() == [0, 0, 128, 255]
    write_arrays(tmp_path, np.full((2, 2, 1), -9999, np.float32), np.ones((2, 2), np.uint8))
    assert load(tmp_path, nodata=-9999, percentiles=(0, 100))[0].image.max() == 0


def test_no_data_is_read_from_tiff_metadata(tmp_path: Path) -> None:
    scene = SCENE.astype(np.float32)
    scene[:10] = -3.4028234663852886e38
    write_tiff(
        tmp_path / "images/a.tif", scene, extratags=[(42113, "s", 0, "-3.4028234663852886e+38", True)], **BANDS_LAST
    )
    write_tiff(tmp_path / "masks/a.tif", IDS)
    sample = load(tmp_path, mask_suffix=".tif")[0]
    assert (sample["seg"].array[:10] == 255).all()
    assert (sample["seg"].array[10:] == IDS[10:]).all()
    assert (sample.image[:10] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value_range": (0, 1), "percentiles": (2, 98)}, "not both"),
        ({"value_range": (0, 1), "scale": 2}, "'scale' has no effect on values mapped to a range"),
        ({"value_range": (1, 1)}, "must be increasing"),
        ({"percentiles": (98, 2)}, "two increasing numbers from 0 to 100"),
        ({"bands": []}, "numbers from 0"),
        ({"bands": [-1]}, "numbers from 0"),
        ({"window": (8, 8), "overlap": 8}, "less than 'window'"),
        ({"window": (0, 8)}, "less than 'window'"),
    ],
)
def test_arguments_that_contradict_each_other(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    write_arrays(tmp_path)
    with pytest.raises(UsageError, match=message):
        load(tmp_path, **arguments)


def test_what_does_not_fit_a_raster_names_it(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    with pytest.raises(DataError, match=r"a\.npy: has 5 bands, but 'bands' has 7"):
        load(tmp_path, bands=[7])[0]
    with pytest.raises(DataError, match=r"a\.npy: 2 ranges in 'value_range' for 5 bands"):
        load(tmp_path, value_range=[(0, 1), (0, 2)])[0]
    image.write_mask(tmp_path / "masks/a.png", IDS[:, :-1])
    with pytest.raises(DataError, match=r"a\.png: a mask of 70 x 89 for an image of 70 x 90 pixels: .*a\.npy"):
        load(tmp_path)[0]
    image.write_mask(tmp_path / "masks/a.png", IDS + 7)
    with pytest.raises(DataError, match=r"a\.png: label values 7, 8, 9 are outside the 3 classes"):
        load(tmp_path)[0]
    write_arrays(tmp_path, SCENE.astype(np.complex64))
    with pytest.raises(DataError, match=r"contains complex64"):
        load(tmp_path)[0]


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(("overlap", "expected"), [(0, 3 * 3), (8, 3 * 4), ((8, 0), 3 * 3)])
def test_windows_cover_every_pixel(tmp_path: Path, overlap: Any, expected: int) -> None:
    write_arrays(tmp_path)
    for border in ("cut", "shift"):
        dataset = load(tmp_path, window=(32, 32), overlap=overlap, border=border)
        seen = np.zeros(IDS.shape, int)
        for index in range(len(dataset)):
            sample = dataset[index]
            top, left, height, width = sample.meta["window"]
            here = (slice(top, top + height), slice(left, left + width))
            seen[here] += 1
            assert (sample.image == SCENE[here]).all()
            assert (sample["seg"].array == IDS[here]).all()
            assert sample.meta["name"] == f"a_{top}_{left}"
            assert border == "cut" or (height, width) == (32, 32)
        assert len(dataset) == expected
        assert (seen > 0).all()
        assert border == "shift" or overlap or (seen == 1).all()


def test_a_raster_smaller_than_the_window_is_one_sample(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    for border in ("cut", "shift"):
        dataset = load(tmp_path, window=(100, 100), overlap=20, border=border)
        assert [sample.size for sample in (dataset[0],)] == [(70, 90)]
        assert len(dataset) == 1


def test_windows_of_several_rasters_follow_each_other(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    write_arrays(tmp_path, SCENE[:30], IDS[:30], "b")
    dataset = load(tmp_path, window=(40, 90))
    assert [dataset[i].meta["name"] for i in range(len(dataset))] == ["a_0_0", "a_40_0", "b_0_0"]
    with pytest.raises(IndexError):
        dataset[3]
    again = pickle.loads(pickle.dumps(dataset))
    assert (again[-1].image == dataset[2].image).all()


def test_samples_may_be_changed_and_move_as_others_do(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    dataset = load(tmp_path, window=(32, 32))
    sample = dataset[0]
    sample.image[...] = 0
    sample["seg"].array[...] = 0
    assert (dataset[0].image == SCENE[:32, :32]).all()
    moved = dataset[0].apply(Flip()).apply(Resize((64, 48)))
    assert moved.image.shape == (64, 48, 5)
    assert moved["seg"].array.shape == (64, 48)


# ---------------------------------------------------------------- several files


def test_files_of_several_folders_are_put_together(tmp_path: Path) -> None:
    write_arrays(tmp_path, SCENE[..., :2])
    (tmp_path / "radar").mkdir()
    np.save(tmp_path / "radar/a.npy", SCENE[..., 2:].astype(np.float32))
    make = {"masks": "masks", "classes": LABELS, "data_root": tmp_path}
    whole = RasterDataset(["images", "radar"], **make)[0]
    assert (whole.image == SCENE).all()
    some = RasterDataset(["images", "radar"], bands=[4, 0, 2], **make)[0]
    assert (some.image == SCENE[..., [4, 0, 2]]).all()


def test_a_second_image_is_a_field(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    (tmp_path / "later").mkdir()
    np.save(tmp_path / "later/a.npy", SCENE[::-1])
    sample = load(tmp_path, images2="later", bands=[1], window=(20, 20))[0]
    assert (sample["img2"].array == SCENE[::-1][:20, :20, 1:2]).all()
    (tmp_path / "later/a.npy").rename(tmp_path / "later/b.npy")
    with pytest.raises(DataError, match=r"1 of 1 names without a raster of that name in .*later: a"):
        load(tmp_path, images2="later")


def test_pictures_masks_of_colours_and_none(tmp_path: Path) -> None:
    picture = RNG.integers(0, 256, (6, 8, 3), np.uint8)
    image.write(tmp_path / "images/a.png", picture)
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
    image.write(tmp_path / "masks/a.png", np.array(palette, np.uint8)[IDS[:6, :8]])
    sample = load(tmp_path, palette=palette)[0]
    assert (sample.image == picture).all()
    assert (sample["seg"].array == IDS[:6, :8]).all()
    assert "seg" not in RasterDataset("images", data_root=tmp_path)[0]


def test_a_mask_with_a_palette_gives_its_numbers(tmp_path: Path) -> None:
    write_tiff(tmp_path / "images/a.tif", SCENE, **BANDS_LAST)
    colors = RNG.integers(0, 65536, (3, 256), np.uint16)
    write_tiff(tmp_path / "masks/a.tif", IDS, photometric="palette", colormap=colors)
    assert (load(tmp_path, mask_suffix=".tif")[0]["seg"].array == IDS).all()


def test_masks_of_whole_real_numbers(tmp_path: Path) -> None:
    write_tiff(tmp_path / "images/a.tif", SCENE, **BANDS_LAST)
    write_tiff(tmp_path / "masks/a.tif", IDS.astype(np.float32))
    assert (load(tmp_path, mask_suffix=".tif", window=(30, 30))[0]["seg"].array == IDS[:30, :30]).all()
    write_tiff(tmp_path / "masks/a.tif", IDS + np.float32(0.5))
    with pytest.raises(DataError, match=r"a\.tif: labels must be whole numbers, this file contains float32"):
        load(tmp_path, mask_suffix=".tif")[0]
