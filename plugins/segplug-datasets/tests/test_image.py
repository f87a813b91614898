"""Reading, writing and drawing images and labels, and every way in which that can fail."""

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
from PIL import Image

from segkernel.errors import DataError, UsageError
from segplug_datasets import image


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_what_is_written_is_read_as_rgb(tmp_path: Path, picture: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"made/on/the/way{suffix}"
    image.write(path, picture)
    assert np.array_equal(image.read(path), picture)


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
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette(palette)
    picture.save(tmp_path / "voc.png", bits=depth, **({"transparency": transparency} if transparency else {}))
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


@pytest.mark.parametrize("read", [image.read, image.read_mask])
def test_unusable_paths_are_named(tmp_path: Path, read: image.read) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    for name, problem in {
        "missing.png": "no such file",
        "": "Is a directory",
        "empty.png": "empty",
        "text.png": "not an image",
    }.items():
        with pytest.raises(DataError, match=problem) as caught:
            read(tmp_path / name)
        assert caught.value.path == str(tmp_path / name)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stand in for kornia_rs, with a decoder that records the modes of its calls."""
    calls: list[str] = []

    def decode_image_png_u8(data: bytes, size: tuple[int, int], mode: str) -> np.ndarray:
        calls.append(mode)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if decoded is None or decoded.shape[:2] != size:
            raise RuntimeError("a damaged file")
        return decoded[..., ::-1].copy() if mode == "rgb" else decoded[..., None]

    monkeypatch.setitem(sys.modules, "kornia_rs", types.ModuleType("kornia_rs"))
    monkeypatch.setitem(sys.modules, "kornia_rs.io", types.SimpleNamespace(decode_image_png_u8=decode_image_png_u8))
    image._png_decoder.cache_clear()
    yield calls
    image._png_decoder.cache_clear()


def test_plain_pngs_are_read_by_the_faster_decoder(tmp_path: Path, picture: np.ndarray, decoder: list[str]) -> None:
    image.write(tmp_path / "a.png", picture)
    image.write_mask(tmp_path / "labels.png", picture[..., 0])
    assert np.array_equal(image.read(tmp_path / "a.png"), picture)
    assert np.array_equal(image.read_mask(tmp_path / "labels.png"), picture[..., 0])
    assert decoder == ["rgb", "mono"]


def test_indices_of_a_palette_are_read_by_the_faster_decoder(tmp_path: Path, decoder: list[str]) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (indexed := Image.fromarray(labels, "P")).putpalette(range(60))
    indexed.save(tmp_path / "labels.png", bits=8)
    assert np.array_equal(image.read_mask(tmp_path / "labels.png"), labels)
    assert decoder == ["mono"]


def test_other_files_are_left_to_opencv(tmp_path: Path, picture: np.ndarray, decoder: list[str]) -> None:
    image.write(tmp_path / "a.jpg", picture)
    image.write(tmp_path / "grey.png", picture[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.concatenate([picture, picture[..., :1]], 2))
    cv2.imwrite(str(tmp_path / "deep.png"), picture.astype(np.uint16) * 257)
    Image.fromarray(picture).save(tmp_path / "transparent.png", transparency=(0, 0, 0))
    for name in ("a.jpg", "grey.png", "alpha.png", "deep.png", "transparent.png"):
        assert image.read(tmp_path / name).shape == picture.shape
    assert decoder == []


def test_a_damaged_png_is_refused_by_opencv_in_the_end(tmp_path: Path, picture: np.ndarray, decoder: list[str]) -> None:
    image.write(tmp_path / "a.png", picture)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png"):
        image.read(tmp_path / "a.png")
    assert len(decoder) == 1


def test_the_real_decoder_returns_the_same_pixels(tmp_path: Path, picture: np.ndarray) -> None:
    decode = pytest.importorskip("kornia_rs.io").decode_image_png_u8
    image.write(tmp_path / "a.png", picture)
    image.write_mask(tmp_path / "labels.png", picture[..., 0])
    size = picture.shape[:2]
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes(), size, "rgb"), picture)
    assert np.array_equal(decode((tmp_path / "labels.png").read_bytes(), size, "mono")[..., 0], picture[..., 0])


def test_a_mask_of_fractions_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "depth.tif"), np.full((4, 4), 0.5, np.float32))
    with pytest.raises(DataError, match="float32"):
        image.read_mask(tmp_path / "depth.tif")


def turned_png(mask: np.ndarray, orientation: int) -> bytes:
    """Return a PNG with an EXIF orientation."""
    encoded = cv2.imencode(".png", mask)[1].tobytes()
    exif = b"eXIf" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)
    return encoded[:33] + struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif)) + encoded[33:]


def test_image_and_mask_get_the_same_exif_rotation(tmp_path: Path) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "turned.png").write_bytes(turned_png(mask, 6))
    assert (image.read(tmp_path / "turned.png")[..., 0] == np.rot90(mask, -1)).all()
    assert (image.read_mask(tmp_path / "turned.png") == np.rot90(mask, -1)).all()


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


def test_label_maps_are_written_in_lossless_formats_only(tmp_path: Path) -> None:
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
def test_other_values_than_images_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(H, W, C\)"):
        image.as_rgb(wrong)


@pytest.mark.parametrize("name", ["overlay", "read_mask", "write", "write_mask"])
def test_names_from_before_0_3_still_work(name: str) -> None:
    from segkernel import image as kernels

    with pytest.warns(DeprecationWarning, match=rf"{name} is deprecated .* segplug_datasets\.image\.{name}"):
        assert getattr(kernels, name) is getattr(image, name)
