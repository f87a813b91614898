"""Reading, writing and drawing, and every way in which a file can be unusable."""

from __future__ import annotations

import errno
import os
import struct
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkernel import image
from segkernel.errors import DataError, SegKernelError, UsageError


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture, 48 x 64, whose channels differ."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 0)


@pytest.fixture
def labels() -> np.ndarray:
    """Class ids 0 to 3 and 255."""
    ids = np.random.default_rng(1).integers(0, 4, (48, 64)).astype(np.uint8)
    ids[:4] = 255
    return ids


def indexed_png(indices: np.ndarray, depth: int, palette: bytes, transparency: bytes = b"") -> bytes:
    """Return a palette PNG of 1, 2, 4 or 8 bits per pixel."""
    bits = (indices[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(len(indices), -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], depth, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette)]
    chunks += [(b"tRNS", transparency)] if transparency else []
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    written = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_what_is_written_is_read_as_rgb(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"made/on/the/way{suffix}"
    image.write(path, picture)
    assert np.array_equal(image.read(path), picture)


@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey", "16 bits", "palette", "jpeg", "grey jpeg", "turned jpeg"])
def test_colours_are_the_same_whichever_way_opencv_gives_them(
    tmp_path: Path, picture: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("picture.jpg" if "jpeg" in kind else "picture.png")
    arrays = {"rgba": np.dstack([picture, picture[..., 0]]), "16 bits": picture.astype(np.uint16) * 257}
    pixels = picture[..., 0] if "grey" in kind or kind == "palette" else arrays.get(kind, picture)
    cv2.imwrite(str(path), pixels)
    data = path.read_bytes()
    if kind == "palette":
        data = indexed_png(picture[..., 0] % 16, 4, bytes(range(48)))
    if kind == "turned jpeg":
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    path.write_bytes(data)
    found = image.read(path)
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
    assert np.array_equal(found, image.read(path))
    assert found.shape == ((*picture.shape[1::-1], 3) if kind == "turned jpeg" else picture.shape)


def test_unicode_paths(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "größe 街道.png"
    image.write(path, picture)
    assert np.array_equal(image.read(str(path)), picture)


def test_a_grey_file_is_read_as_rgb(tmp_path: Path, labels: np.ndarray) -> None:
    image.write_mask(tmp_path / "grey.png", labels)
    assert image.read(tmp_path / "grey.png").shape == (48, 64, 3)


@pytest.mark.parametrize("highest", [1, 255, 256, 65535])
def test_a_mask_keeps_every_value(tmp_path: Path, highest: int) -> None:
    labels = np.linspace(0, highest, 24).astype(np.int64).reshape(4, 6)
    image.write_mask(tmp_path / "mask.png", labels)
    assert np.array_equal(image.read_mask(tmp_path / "mask.png"), labels)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("transparency", [b"", b"\0\xff"], ids=["opaque", "transparent"])
def test_a_palette_png_gives_its_indices(tmp_path: Path, depth: int, transparency: bytes) -> None:
    indices = np.random.default_rng(2).integers(0, 2**depth, (7, 13))
    palette = bytes([255, 0, 0]) * 2**depth  # equal colours: only the indices tell the classes apart
    (tmp_path / "voc.png").write_bytes(indexed_png(indices, depth, palette, transparency))
    assert np.array_equal(image.read_mask(tmp_path / "voc.png"), indices)


def test_a_one_bit_mask_gives_zero_and_one(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 2, (9, 17)).astype(np.uint8)
    _, encoded = cv2.imencode(".png", values * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    (tmp_path / "binary.png").write_bytes(encoded.tobytes())
    assert np.array_equal(image.read_mask(tmp_path / "binary.png"), values)


def test_a_colour_mask_comes_as_rgb_without_alpha(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.full((48, 64, 1), 128, np.uint8)
    cv2.imwrite(str(tmp_path / "mask.png"), np.concatenate([picture[..., ::-1], alpha], 2))
    assert np.array_equal(image.read_mask(tmp_path / "mask.png"), picture)


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize("read", [image.read, image.read_mask])
def test_unusable_paths_are_named(tmp_path: Path, read: image.read) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, problem in {
        "missing.png": "no such file",
        "": "a folder",
        "empty.png": "empty",
        "text.png": "not an image",
    }.items():
        with pytest.raises(DataError, match=problem) as caught:
            read(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path, picture: np.ndarray) -> None:
    image.write(tmp_path / "a.png", picture)
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        image.read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, picture: np.ndarray, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    image.write(path, picture)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut short|damaged"):
        image.read(path)


def test_a_jpeg_cut_short_is_refused_in_spite_of_its_thumbnail(tmp_path: Path, picture: np.ndarray) -> None:
    _, small = cv2.imencode(".jpg", picture[:8, :8])
    _, whole = cv2.imencode(".jpg", picture)
    header = b"\xff\xe1" + struct.pack(">H", 2 + len(small)) + small.tobytes()
    data = whole.tobytes()[:2] + header + whole.tobytes()[2:]
    (tmp_path / "whole.jpg").write_bytes(data + b"what a phone appends \xff\xda")
    (tmp_path / "cut.jpg").write_bytes(data[:-20])
    assert image.read(tmp_path / "whole.jpg").shape == (48, 64, 3)
    with pytest.raises(DataError, match="cut short"):
        image.read(tmp_path / "cut.jpg")


def test_a_damaged_png_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    image.write(tmp_path / "a.png", picture)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        image.read(tmp_path / "a.png")


# ---------------------------------------------------------------- with the faster decoder of PNG


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Stand in for imagecodecs, with a decoder that counts its calls."""
    calls: list[int] = []

    def png_decode(data: bytes) -> np.ndarray:
        calls.append(len(data))
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if decoded is None:
            raise RuntimeError("a damaged file")
        return decoded[..., ::-1].copy() if decoded.ndim == 3 else decoded

    monkeypatch.setitem(sys.modules, "imagecodecs", types.SimpleNamespace(png_decode=png_decode))
    image._png_decoder.cache_clear()
    yield calls
    image._png_decoder.cache_clear()


def test_a_plain_png_is_read_by_the_faster_decoder(tmp_path: Path, picture: np.ndarray, decoder: list[int]) -> None:
    image.write(tmp_path / "a.png", picture)
    assert np.array_equal(image.read(tmp_path / "a.png"), picture)
    assert len(decoder) == 1


def test_other_files_are_left_to_opencv(tmp_path: Path, picture: np.ndarray, decoder: list[int]) -> None:
    image.write(tmp_path / "a.jpg", picture)
    image.write(tmp_path / "grey.png", picture[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.concatenate([picture, picture[..., :1]], 2))
    cv2.imwrite(str(tmp_path / "deep.png"), picture.astype(np.uint16) * 257)
    for name in ("a.jpg", "grey.png", "alpha.png", "deep.png"):
        assert image.read(tmp_path / name).shape == picture.shape
    assert decoder == []


def test_a_damaged_png_is_refused_by_opencv_in_the_end(tmp_path: Path, picture: np.ndarray, decoder: list[int]) -> None:
    image.write(tmp_path / "a.png", picture)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png"):
        image.read(tmp_path / "a.png")
    assert len(decoder) == 1


def test_the_real_decoder_gives_the_same_picture(tmp_path: Path, picture: np.ndarray) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    image.write(tmp_path / "a.png", picture)
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), picture)


def test_a_mask_of_real_numbers_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "depth.tif"), np.ones((4, 4), np.float32))
    with pytest.raises(DataError, match="float32"):
        image.read_mask(tmp_path / "depth.tif")


def turned_png(mask: np.ndarray, orientation: int) -> bytes:
    """Return a PNG with an EXIF orientation."""
    encoded = cv2.imencode(".png", mask)[1].tobytes()
    exif = b"eXIf" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)
    return encoded[:33] + struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif)) + encoded[33:]


def test_image_and_mask_are_turned_alike(tmp_path: Path) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "turned.png").write_bytes(turned_png(mask, 6))
    assert (image.read(tmp_path / "turned.png")[..., 0] == np.rot90(mask, -1)).all()
    assert (image.read_mask(tmp_path / "turned.png") == np.rot90(mask, -1)).all()


def tiff(
    pixels: np.ndarray, photometric: int, extra: tuple[int, ...] = (), number: int = 1, big: bool = False
) -> bytes:
    """Return an uncompressed TIFF of pixels (H, W, samples), as a raster program writes it."""
    height, width, samples = pixels.shape
    bits, start, space = pixels.itemsize * 8, (16 if big else 8), (8 if big else 4)
    tags = {256: (width,), 257: (height,), 258: (bits,) * samples, 259: (1,), 262: (photometric,), 273: (0,),
            277: (samples,), 278: (height,), 279: (pixels.nbytes,), 338: extra, 339: (number,) * samples}  # fmt: skip
    tags = {tag: values for tag, values in tags.items() if values}
    after = start + (16 if big else 6) + len(tags) * (20 if big else 12)
    entries, rest = b"", b""
    for tag, values in tags.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        if tag == 273:
            packed = struct.pack("<H", after + 200)
        if len(packed) > space:
            packed, rest = struct.pack("<Q" if big else "<I", after + len(rest)), rest + packed
        entries += struct.pack("<HHQ" if big else "<HHI", tag, 3, len(values)) + packed.ljust(space, b"\0")
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)
    count = struct.pack("<Q" if big else "<H", len(tags))
    return (head + count + entries + bytes(space) + rest).ljust(after + 200, b"\0") + pixels.tobytes()


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_that_is_no_picture_is_refused(tmp_path: Path, picture: np.ndarray, big: bool) -> None:
    path, four = tmp_path / "raster.tif", np.dstack([picture, picture[..., :1]])

    def problem(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            image.read(path)
        return str(caught.value).removeprefix(f"{path}: ")

    assert problem(tiff(four, 1, (0, 0, 0), big=big)) == "a raster of 4 bands: RasterDataset reads it"
    assert problem(tiff(np.dstack([four, four]), 2, (0,) * 5, big=big)).startswith("a raster of 8 bands")
    assert problem(tiff(picture.astype(np.int16), 2, number=2, big=big)).startswith(
        "a raster of signed, real or 32-bit"
    )
    half = np.dstack([picture, np.full(picture.shape[:2], 100, np.uint8)])
    assert problem(tiff(half, 2, (2,), big=big)).startswith("a raster of partly transparent colours")


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_that_is_a_picture_is_read(tmp_path: Path, picture: np.ndarray, big: bool) -> None:
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    for content in (tiff(picture, 2, big=big), tiff(opaque, 2, (2,), big=big), tiff(opaque, 2, (0,), big=big)):
        (tmp_path / "picture.tif").write_bytes(content)
        assert (image.read(tmp_path / "picture.tif") == picture).all()


def test_half_a_tiff_header_is_no_image(tmp_path: Path, picture: np.ndarray) -> None:
    for length in range(1, 160, 3):
        (tmp_path / "cut.tif").write_bytes(tiff(picture, 2)[:length])
        with pytest.raises(DataError):
            image.read(tmp_path / "cut.tif")


def test_a_missing_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SegKernelError, match="pip install opencv-python-headless"):
        image.read("any.png")


# ---------------------------------------------------------------- unwritable


def test_unwritable_places_are_named(tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written") as caught:
        image.write(tmp_path / "file/a.png", picture)
    assert caught.value.path == str(tmp_path / "file/a.png")


def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    image.write(path, picture)

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        image.write(path, 255 - picture)
    assert np.array_equal(image.read(path), picture)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


def test_an_unknown_suffix_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"no image format is called '\.xyz'"):
        image.write(tmp_path / "a.xyz", picture)


def test_label_maps_are_written_only_where_they_survive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.png"):
        image.write_mask(tmp_path / "a.jpg", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="0 to 65535"):
        image.write_mask(tmp_path / "a.png", np.full((4, 4), -1))


# ---------------------------------------------------------------- drawing


def test_an_overlay_mixes_colours_and_leaves_ignored_pixels() -> None:
    black = np.zeros((1, 3, 3), np.uint8)
    mixed = image.overlay(black, np.array([[0, 1, 255]]), [(200, 0, 0), (0, 100, 0)], opacity=0.5)
    assert mixed.tolist() == [[[100, 0, 0], [0, 50, 0], [0, 0, 0]]]


@pytest.mark.parametrize("opacity", [0, -0.1, 1.1])
def test_opacity_is_above_0_and_at_most_1(picture: np.ndarray, labels: np.ndarray, opacity: float) -> None:
    with pytest.raises(UsageError, match="opacity"):
        image.overlay(picture, labels, [(9, 9, 9)], opacity)


def test_labels_of_another_size_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(4, 4\)"):
        image.overlay(picture, np.zeros((4, 4), np.uint8), [(9, 9, 9)])


def test_several_labels_are_painted_in_order() -> None:
    planes = np.array([[[1, 1, 0, 255]], [[0, 1, 0, 0]]], np.uint8)
    plain = np.zeros((1, 4, 3), np.uint8)
    palette = [(200, 0, 0), (0, 200, 0)]
    drawn = image.overlay(plain, planes, palette, opacity=1.0)
    assert drawn.tolist() == [[[200, 0, 0], [0, 200, 0], [0, 0, 0], [0, 0, 0]]]


def test_real_numbers_are_drawn_from_blue_to_red_in_place_of_the_image(picture: np.ndarray) -> None:
    depths = np.linspace(1, 9, 48 * 64, dtype=np.float32).reshape(48, 64)
    depths[1, 1] = np.nan
    drawn = image.overlay(picture, depths, [])
    assert drawn.shape == (48, 64, 3)
    assert drawn[0, 0].argmax() == 2
    assert drawn[-1, -1].argmax() == 0


def test_any_image_can_be_shown() -> None:
    assert image.as_rgb(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    assert image.as_rgb(np.zeros((4, 5, 8), np.uint16)).dtype == np.uint8
    stretched = image.as_rgb(np.linspace(0, 9000, 400, dtype=np.uint16).reshape(20, 20))
    assert stretched.min() == 0
    assert stretched.max() == 255
    assert image.as_rgb(np.full((2, 2), np.nan)).max() == 0


@pytest.mark.parametrize("wrong", [np.zeros((2, 4, 5, 3)), np.zeros(4), np.array([["a", "b"]])])
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(H, W, C\)"):
        image.as_rgb(wrong)
