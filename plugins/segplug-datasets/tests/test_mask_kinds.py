"""Label files of every format: the ids are read, and no-data values are ignored."""

from __future__ import annotations

import io
import json
import logging
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segplug_datasets import image, left_out
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.containers import no_data, pages
from segplug_datasets.doctor import check, inspect, parts_of_folders
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.raster import RasterDataset

Image = pytest.importorskip("PIL.Image")

IDS = (np.mgrid[:12, :16][1] // 4).astype(np.uint8)
COLORS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]


def indexed(ids: np.ndarray = IDS, colors: Sequence[int] = COLORS) -> Any:
    picture = Image.new("P", ids.shape[::-1])
    picture.putdata(ids.reshape(-1).tolist())
    picture.putpalette(list(colors))
    return picture


def saved(picture: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def tiff(array: np.ndarray, nothing: str = "") -> bytes:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tags = [(42113, "s", 0, nothing, True)] if nothing else []
    tifffile.imwrite(stream, array, photometric="minisblack", extratags=tags)
    return stream.getvalue()


def grey(ids: np.ndarray) -> Any:
    return Image.fromarray(ids)


TWO = (IDS > 1).astype(np.uint8)
KINDS = {
    "png": (lambda: saved(grey(IDS), "PNG"), IDS),
    "png of a palette": (lambda: saved(indexed(), "PNG", bits=2), IDS),
    "png of one bit": (lambda: saved(grey(TWO > 0), "PNG"), TWO),
    "tiff of a palette": (lambda: saved(indexed(), "TIFF"), IDS),
    "tiff of a palette, packed": (lambda: saved(indexed(), "TIFF", compression="tiff_lzw"), IDS),
    "tiff of one bit": (lambda: saved(grey(TWO > 0), "TIFF"), TWO),
    "tiff of one bit, fax": (lambda: saved(grey(TWO > 0), "TIFF", compression="group4"), TWO),
    "tiff of black and white": (lambda: saved(grey(TWO * 255), "TIFF"), TWO.astype(np.int64) * 255),
    "bmp": (lambda: saved(grey(IDS), "BMP"), IDS),
    "bmp of a palette": (lambda: saved(indexed(), "BMP"), IDS),
    "bmp of one bit": (lambda: saved(grey(TWO > 0), "BMP"), TWO),
    "gif of a palette": (lambda: saved(indexed(), "GIF"), IDS),
    "gif with transparency": (lambda: saved(indexed(), "GIF", transparency=1), IDS),
    "gif of two equal colours": (lambda: saved(indexed(colors=[0] * 6 + COLORS[3:]), "GIF", optimize=False), IDS),
    "gif of greys": (lambda: saved(grey(TWO * 255), "GIF"), TWO.astype(np.int64) * 255),
    "tiff of 32 bits": (lambda: saved(Image.fromarray(IDS.astype(np.int32)), "TIFF"), IDS),
    "tiff of real numbers": (lambda: saved(Image.fromarray(IDS.astype(np.float32)), "TIFF"), IDS),
}


def need_opencv(*version: int) -> None:
    if tuple(map(int, cv2.__version__.split(".")[:2])) < version:
        pytest.skip(f"OpenCV {cv2.__version__} cannot read it")


@pytest.mark.parametrize("kind", KINDS)
def test_ids_come_out_of_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    write, expected = KINDS[kind]
    if "gif" in kind:
        need_opencv(4, 12)  # the first to read GIF
    (tmp_path / "a").write_bytes(write())
    read = image.read_mask(tmp_path / "a")
    assert read.shape == expected.shape
    assert read.dtype.kind in "ui"
    assert (read == expected).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_palettes_of_tiffs_of_both_orders(bits: int, order: str) -> None:
    bands = np.unpackbits(IDS[..., None], axis=-1)[..., 8 - bits :].reshape(IDS.shape[0], -1)
    pixels = np.packbits(bands, axis=-1).tobytes()
    colors = np.random.default_rng(0).integers(0, 65535, 3 << bits).astype(order + "u2").tobytes()
    size, start = IDS.shape, 8 + len(pixels)
    tags = {256: size[1], 257: size[0], 258: bits, 259: 1, 262: 3, 273: 8, 277: 1, 278: size[0], 279: len(pixels)}
    entries = [
        np.array([tag, 4], order + "u2").tobytes() + np.array([1, v], order + "u4").tobytes() for tag, v in tags.items()
    ]
    entries.append(np.array([320, 3], order + "u2").tobytes() + np.array([3 << bits, start], order + "u4").tobytes())
    directory = np.array([len(entries)], order + "u2").tobytes() + b"".join(entries) + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    data = mark + np.array([start + len(colors)], order + "u4").tobytes() + pixels + colors + directory
    assert (image.decode_numbers(data, "a.tif") == IDS).all()


def test_fractions_are_refused_as_labels(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(saved(Image.fromarray(IDS.astype(np.float32) + 0.5), "TIFF"))
    with pytest.raises(DataError, match=r"labels must be whole numbers, this file contains float32 with fractions"):
        image.read_mask(tmp_path / "a.tif")


def test_nan_and_out_of_range_floats_are_ignored() -> None:
    raw = np.array([[0, 1, np.nan], [np.inf, -3.4e38, 2]], np.float32)
    assert image.whole_numbers(raw, "a").tolist() == [[0, 1, image.NOTHING], [image.NOTHING, image.NOTHING, 2]]
    assert LabelSpec(("a", "b", "c")).encode(raw).tolist() == [[0, 1, IGNORE], [IGNORE, IGNORE, 2]]
    assert LabelSpec(("a", "b", "c"), background="c").encode(raw).tolist() == [[0, 1, IGNORE], [IGNORE, IGNORE, 2]]


@pytest.mark.parametrize("value", [-9999, -1, 65535, 65536, 100_000_000, 2**31 - 1, 2**32 - 1, 2**63 - 1])
def test_ignoring_is_decided_before_refusing_and_takes_no_memory(value: int) -> None:
    raw = np.array([[0, 1], [value, 1]], np.int64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert LabelSpec(("a", "b"), ignore=(value,)).encode(raw).tolist() == [[0, 1], [IGNORE, 1]]
    assert LabelSpec(("a", "b"), values={0: 0, 1: 0, value: 1}).encode(raw).tolist() == [[0, 0], [1, 0]]
    assert LabelSpec(("a", "b"), background="a").encode(raw).tolist() == [[0, 1], [0, 1]]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
    with pytest.raises(DataError, match=rf"label values {value} are outside the 2 classes"):
        LabelSpec(("a", "b")).encode(raw)


def folder(root: Path, mask: bytes, suffix: str = ".tif", size: tuple[int, int] = IDS.shape) -> dict[str, Any]:
    image.write(root / "images/a.png", np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8))
    (root / "masks").mkdir(exist_ok=True)
    (root / f"masks/a{suffix}").write_bytes(mask)
    return {"images": str(root / "images"), "masks": str(root / "masks"), "mask_suffix": suffix}


@pytest.mark.parametrize("cls", [FolderDataset, RasterDataset])
@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [("i2", -9999, "-9999"), ("u4", 2**32 - 1, "4294967295"), ("f4", np.nan, "nan"), ("f4", -3.4e38, "-3.4e+38")],
)
def test_no_data_is_ignored_with_a_message(
    tmp_path: Path,
    cls: Any,
    kind: str,
    value: float,
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if kind == "u4" and cls is FolderDataset:
        need_opencv(5, 0)  # the first to read TIFFs of unsigned 32-bit numbers; RasterDataset reads them without it
    monkeypatch.setattr(left_out, "_logged", set())
    mask = TWO.astype(kind)
    mask[0] = value
    arguments = folder(tmp_path, tiff(mask, said))
    expected = TWO.copy()
    expected[0] = IGNORE
    dataset = cls(**arguments)
    with caplog.at_level(logging.WARNING):
        assert (dataset[0]["seg"].array == expected).all()
        assert (dataset[0]["seg"].array == expected).all()
    assert len([line for line in caplog.messages if "is ignored, here and in similar files" in line]) == 1
    if cls is FolderDataset:
        parts = parts_of_folders(arguments["images"], arguments["masks"], ["a", "b"], {"mask_suffix": ".tif"})
        report = check(inspect(parts, 0))
        (finding,) = [one for one in report.findings if one.kind == "no-data"]
        assert "1 masks contain no-data values in 8.3% of all pixels" in finding.what
        assert not report.failed


def test_a_no_data_value_that_is_a_class_is_not_ignored(tmp_path: Path) -> None:
    """GIS programs write 0 for no data, also where 0 is the background."""
    arguments = folder(tmp_path, tiff(TWO, "0"))
    assert no_data(tiff(TWO, "0")) == 0
    assert (FolderDataset(**arguments)[0]["seg"].array == TWO).all()
    assert (RasterDataset(**arguments)[0]["seg"].array == TWO).all()


def test_ids_in_one_channel_of_a_colour_mask(tmp_path: Path) -> None:
    for depth in (np.uint8, np.uint16):
        wide = np.zeros((*IDS.shape, 3), depth)
        wide[..., 0] = IDS
        image.write(tmp_path / "red.png", wide)
        arguments = folder(tmp_path, (tmp_path / "red.png").read_bytes(), ".png")
        assert (FolderDataset(classes="abcd", **arguments)[0]["seg"].array == IDS).all()
    image.write(tmp_path / "red.png", np.stack([TWO * 255, TWO * 0, TWO * 0], 2))
    arguments = folder(tmp_path, (tmp_path / "red.png").read_bytes(), ".png")
    with pytest.raises(DataError, match="the mask has colours: give the colour of each class"):
        FolderDataset(**arguments)[0]


def test_decoders_write_nothing_to_the_terminal(tmp_path: Path) -> None:
    """OpenCV warned of each private tag of each GeoTIFF, libpng of each colour profile."""
    (tmp_path / "a.tif").write_bytes(tiff(IDS, "nothing"))
    png = saved(grey(np.stack([IDS] * 3, 2)), "PNG", icc_profile=b"no profile")
    assert b"iCCP" in png
    (tmp_path / "a.png").write_bytes(png)
    code = (
        "import sys; from segplug_datasets import image, raster_file; from segkernel.image import read\n"
        "for path in sys.argv[1:]: image.read(path), image.read_mask(path), read(path)\n"
        "raster_file.open_raster(sys.argv[1])"
    )
    paths = [str(tmp_path / "a.tif"), str(tmp_path / "a.png")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


# ---------------------------------------------------------------- pages, frames, turned images


def test_pages_and_frames_are_counted() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 90, 200)]
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        assert pages(saved(frames[0], kind, save_all=True, append_images=frames[1:])) == 3, kind
        assert pages(saved(frames[0], kind)) == 1, kind
    assert pages(b"GIF89a") == pages(b"II*\0\xff\xff\xff\xff") == pages(b"") == 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, bool])
@pytest.mark.parametrize("cls", [FolderDataset, RasterDataset])
def test_files_in_which_white_is_zero_hold_the_numbers_all_the_same(tmp_path: Path, cls: Any, kind: type) -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, TWO.astype(kind), photometric="miniswhite")
    assert (cls(**folder(tmp_path, stream.getvalue()))[0]["seg"].array == TWO).all()


def test_previews_are_not_pages() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(IDS)
        writer.write(IDS[::2, ::2], subfiletype=1)
    assert pages(stream.getvalue()) == 1


def test_further_pages_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_out, "_logged", set())
    arguments = folder(tmp_path, saved(indexed(TWO), "PNG"), ".png")
    frames = [Image.fromarray(np.full((*IDS.shape, 3), value, np.uint8)) for value in (0, 90)]
    (tmp_path / "images/a.png").unlink()
    (tmp_path / "images/a.tif").write_bytes(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    with caplog.at_level(logging.WARNING):
        FolderDataset(**arguments)[0]
    assert "a.tif has 2 pages or frames: only the first is read" in caplog.text
    parts = parts_of_folders(arguments["images"], arguments["masks"], ["a", "b"], {})
    (finding,) = [one for one in check(inspect(parts, 0)).findings if one.kind == "further-pages-of-images"]
    assert "1 images have up to 2 pages or frames: only the first is read" in finding.what


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("stored", [True, False])
def test_annotations_on_stored_pixels_are_turned_with_the_image(
    tmp_path: Path, orientation: int, stored: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(left_out, "_logged", set())
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = image.read(tmp_path / "a.jpg")
    assert shown.shape == (32, 16, 3)
    size = pixels.shape if stored else shown.shape
    top, left = (0, 0) if stored else np.argwhere(shown[..., 0] > 100).min(0).tolist()
    box = [left, top, left + 8, top, left + 8, top + 8, left, top + 8]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [box]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    sample = CocoInstanceDataset("a.json", data_root=tmp_path, instances="polygons")[0]
    drawn = sample.image[..., 0] > 100
    assert ((sample["seg"].array == 1) == drawn).all()
    assert (sample["instances"].masks(sample.size)[..., 0] == drawn).all()
    left, top, right, bottom = sample["boxes"].array[0].astype(int).tolist()
    assert drawn[top:bottom, left:right].sum() == drawn.sum() == 64
    assert ("size of the image before its EXIF rotation" in caplog.text) == stored


def test_annotations_of_another_size_are_refused(tmp_path: Path) -> None:
    image.write(tmp_path / "a.png", np.zeros((16, 32, 3), np.uint8))
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 32, "width": 16}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="made for an image of 32 x 16, but this one has 16 x 32 pixels"):
        CocoInstanceDataset("a.json", data_root=tmp_path)[0]


def test_masks_of_gif_are_found_and_read(tmp_path: Path) -> None:
    need_opencv(4, 12)
    arguments = folder(tmp_path, saved(indexed(TWO), "GIF"), ".gif")
    parts = parts_of_folders(arguments["images"], arguments["masks"], ["a", "b"], {})
    report = check(inspect(parts, 0))
    assert [(row.masks, row.occurring) for row in report.rows] == [(1, 2)]
    assert [finding.kind for finding in report.findings] == ["small-images", "palette-masks"]


def test_bands_of_another_resolution_are_refused(tmp_path: Path) -> None:
    for name, size in (("ten", (40, 50)), ("twenty", (20, 25))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", np.zeros((*size, 2), np.uint16))
    dataset = RasterDataset([str(tmp_path / "ten"), str(tmp_path / "twenty")])
    with pytest.raises(DataError, match=r"twenty/a.npy: 20 x 25 pixels, but .*ten/a.npy has 40 x 50\n.*one resolution"):
        dataset[0]
