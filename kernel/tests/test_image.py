"""Reading, and every way in which a file can be unusable."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from segkernel import image
from segkernel.errors import DataError, SegKernelError


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth photo, 48 x 64, whose channels differ."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 0)


def indexed_png(indices: np.ndarray, depth: int, palette: bytes) -> bytes:
    """Return a palette PNG of 1, 2, 4 or 8 bits per pixel."""
    bits = (indices[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(len(indices), -1).astype(np.uint8), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", indices.shape[1], indices.shape[0], depth, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette)]
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    written = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "größe 街道.png"])
def test_an_image_is_read_as_rgb(tmp_path: Path, photo: np.ndarray, name: str) -> None:
    _, encoded = cv2.imencode(Path(name).suffix, photo[..., ::-1])
    (tmp_path / name).write_bytes(encoded.tobytes())
    assert np.array_equal(image.read(str(tmp_path / name)), photo)


@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey", "16 bits", "palette", "jpeg", "grey jpeg", "turned jpeg"])
def test_colours_do_not_depend_on_the_channel_order_of_opencv(
    tmp_path: Path, photo: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("photo.jpg" if "jpeg" in kind else "photo.png")
    arrays = {"rgba": np.dstack([photo, photo[..., 0]]), "16 bits": photo.astype(np.uint16) * 257}
    pixels = photo[..., 0] if "grey" in kind or kind == "palette" else arrays.get(kind, photo)
    cv2.imwrite(str(path), pixels)
    data = path.read_bytes()
    if kind == "palette":
        data = indexed_png(photo[..., 0] % 16, 4, bytes(range(48)))
    if kind == "turned jpeg":
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
        data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    path.write_bytes(data)
    found = image.read(path)
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB", raising=False)
    assert np.array_equal(found, image.read(path))
    assert found.shape == ((*photo.shape[1::-1], 3) if kind == "turned jpeg" else photo.shape)


# ---------------------------------------------------------------- bad files


def test_unusable_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, problem in {
        "missing.png": "no such file",
        "": "Is a directory",
        "empty.png": "empty",
        "text.png": "not an image",
    }.items():
        with pytest.raises(DataError, match=problem) as caught:
            image.read(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(tmp_path: Path, photo: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        image.read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, photo: np.ndarray, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    cv2.imwrite(str(path), photo)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut short|damaged"):
        image.read(path)


def test_a_jpeg_cut_short_is_refused_in_spite_of_its_thumbnail(tmp_path: Path, photo: np.ndarray) -> None:
    _, small = cv2.imencode(".jpg", photo[:8, :8])
    _, whole = cv2.imencode(".jpg", photo)
    header = b"\xff\xe1" + struct.pack(">H", 2 + len(small)) + small.tobytes()
    data = whole.tobytes()[:2] + header + whole.tobytes()[2:]
    (tmp_path / "whole.jpg").write_bytes(data + b"what a phone appends \xff\xda")
    (tmp_path / "cut.jpg").write_bytes(data[:-20])
    assert image.read(tmp_path / "whole.jpg").shape == (48, 64, 3)
    with pytest.raises(DataError, match="cut short"):
        image.read(tmp_path / "cut.jpg")


def test_a_damaged_png_is_refused(tmp_path: Path, photo: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        image.read(tmp_path / "a.png")


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
def test_a_tiff_that_is_not_a_photo_is_refused(tmp_path: Path, photo: np.ndarray, big: bool) -> None:
    path, four = tmp_path / "raster.tif", np.dstack([photo, photo[..., :1]])

    def problem(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            image.read(path)
        return str(caught.value).removeprefix(f"{path}: ")

    assert problem(tiff(four, 1, (0, 0, 0), big=big)) == "a raster of 4 bands: RasterDataset reads it"
    assert problem(tiff(np.dstack([four, four]), 2, (0,) * 5, big=big)).startswith("a raster of 8 bands")
    assert problem(tiff(photo.astype(np.int16), 2, number=2, big=big)).startswith(
        "a raster of signed, floating-point or 32-bit"
    )
    half = np.dstack([photo, np.full(photo.shape[:2], 100, np.uint8)])
    assert problem(tiff(half, 2, (2,), big=big)).startswith("a raster of partly transparent colours")


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_that_is_a_photo_is_read(tmp_path: Path, photo: np.ndarray, big: bool) -> None:
    opaque = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    for content in (tiff(photo, 2, big=big), tiff(opaque, 2, (2,), big=big), tiff(opaque, 2, (0,), big=big)):
        (tmp_path / "photo.tif").write_bytes(content)
        assert (image.read(tmp_path / "photo.tif") == photo).all()


def test_half_a_tiff_header_is_not_an_image(tmp_path: Path, photo: np.ndarray) -> None:
    for length in range(1, 160, 3):
        (tmp_path / "cut.tif").write_bytes(tiff(photo, 2)[:length])
        with pytest.raises(DataError):
            image.read(tmp_path / "cut.tif")


def test_a_missing_opencv_is_reported_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "any.png").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SegKernelError, match="pip install opencv-python-headless"):
        image.read(tmp_path / "any.png")


# ---------------------------------------------------------------- traps


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"large{suffix}"
    cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    monkeypatch.setenv("SEGKERNEL_MAX_PIXELS", "1199")
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=r"30 x 40 pixels are more than the limit of 1199.*SEGKERNEL_MAX_PIXELS"):
        image.read(path)
    monkeypatch.undo()
    monkeypatch.setenv("SEGKERNEL_MAX_PIXELS", "1200")
    assert image.read(path).shape == (30, 40, 3)


def test_devices_and_pipes_are_not_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in ("/dev/zero", tmp_path / "pipe.png"):
        with pytest.raises(DataError, match="not a regular file"):
            image.read(path)
