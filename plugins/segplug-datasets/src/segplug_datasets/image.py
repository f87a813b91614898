"""Image and label files: reading, atomic writing, drawing.

    write("overlay.png", overlay(read("street.jpg"), read_mask("street_labels.png"), palette))

Images are (H, W, 3) uint8 RGB, label maps (H, W) integers.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.headers import PNG, image_size, png_chunks, tiff_tags, without_chunks
from segkernel.image import PathLike, decode, decode_with, is_cut_short, opencv, read_bytes
from segkernel.labels import IGNORE, Color
from segplug_datasets.containers import BITS, PHOTOMETRIC, pages, with_numbers_for_colors
from segplug_datasets.left_out import warn_once
from segplug_datasets.writing import written

_GREY, _RGB, _INDEXED = 0, 2, 3  # PNG's colour types
_WHITE_IS_ZERO, _PALETTE = 0, 3  # TIFF's photometric interpretations
_LEFT_TO_OPENCV = {b"eXIf", b"tRNS", b"acTL"}  # PNG's orientation, transparency and animation
_MOST_PIXELS = 2**28  # decoded without OpenCV, which has its own limit


# ---------------------------------------------------------------- reading


def read(path: PathLike) -> np.ndarray:
    """Return the image in a file as (H, W, 3) uint8 RGB, as `segkernel.image.read` does.

    PNGs are decoded faster where kornia_rs is installed.

    Raises:
        DataError: As that does.
    """
    data = read_bytes(path)
    if (count := pages(data)) > 1:
        warn_once("pages", f"{path} has {count} pages or frames: only the first is read, here and in similar files")
    quick = _decode_plain_png(data, _RGB)
    return decode(data, path) if quick is None else quick


def _decode_plain_png(data: bytes, color_type: int) -> np.ndarray | None:
    """Decode a PNG of 8 bits per channel, (H, W, 3) or (H, W) by its colour type, by kornia_rs if installed.

    Returns None for files left to OpenCV, which takes at least twice as long: rotated, animated and damaged ones.
    """
    decoder = _png_decoder()
    if decoder is None or not data.startswith(PNG) or data[24:26] != bytes([8, color_type]) or is_cut_short(data):
        return None
    size, mode = image_size(data), {_RGB: "rgb", _GREY: "mono"}[color_type]
    if math.prod(size) > _MOST_PIXELS or _LEFT_TO_OPENCV & {name for name, *_ in png_chunks(data)}:
        return None
    try:
        pixels = decoder(data, size, mode)
    except Exception:  # of several types; OpenCV's error is reported
        return None
    return pixels if color_type == _RGB else pixels[..., 0]


@cache
def _png_decoder() -> Callable[[bytes, tuple[int, int], str], np.ndarray] | None:
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return decode_image_png_u8


def read_mask(path: PathLike) -> np.ndarray:
    """Return the raw values of a label file: (H, W) integers of any depth, or (H, W, 3) RGB of a colour mask.

    Palette files return indices, and files with 1, 2 or 4 bits per pixel small numbers. EXIF orientation is applied, as
    to images; alpha is dropped. Floats must be whole, see `whole_numbers`.

    Raises:
        DataError: As `read`; also when the values are not whole numbers.
    """
    return whole_numbers(read_numbers(path), path)


def read_numbers(path: PathLike) -> np.ndarray:
    """Return the raw values of a file as `read_mask` does, with floats unchanged.

    Raises:
        DataError: As `read`.
    """
    return decode_numbers(read_bytes(path), path)


def decode_numbers(data: bytes, path: PathLike) -> np.ndarray:
    """Return what `read_numbers` returns for a file with these bytes."""
    cv2 = opencv()
    data, divisor = _plain_png(with_numbers_for_colors(data))
    if (quick := _decode_plain_png(data, _GREY)) is not None:
        return quick
    numbers = decode_with(cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR, data, path)
    tags = tiff_tags(data)
    if numbers.ndim == 3:
        indexed = data.startswith(b"GIF8") or tags.get(PHOTOMETRIC, (2,))[0] == _PALETTE
        return numbers[..., 0].copy() if indexed and (numbers == numbers[..., :1]).all() else numbers[..., ::-1].copy()
    if numbers.dtype == np.uint8 and tags.get(PHOTOMETRIC, (1,))[0] == _WHITE_IS_ZERO:
        numbers = 255 - numbers  # OpenCV returns greys, not the stored numbers
    if tags and tags.get(BITS, (1,))[0] == 1:
        divisor = 255
    return numbers // divisor if divisor > 1 else numbers


NOTHING = np.iinfo(np.int64).min
"""The value that `whole_numbers` returns for NaN; ignored by every label specification."""

_LARGEST_WHOLE = 2.0**53


def whole_numbers(array: np.ndarray, path: PathLike) -> np.ndarray:
    """Return float labels as int64; NaN, infinite and huge ones (-3.4e38) as `NOTHING`.

    Raises:
        DataError: When some are not whole numbers.
    """
    if array.dtype.kind != "f":
        return array
    there = np.abs(array) < min(_LARGEST_WHOLE, float(np.finfo(array.dtype).max))  # False for NaN
    whole = np.where(there, array, 0)
    if (whole != np.floor(whole)).any():
        raise DataError(f"labels must be whole numbers, this file contains {array.dtype} with fractions", path)
    return np.where(there, whole.astype(np.int64), NOTHING)


def _plain_png(data: bytes) -> tuple[bytes, int]:
    """Return a file that OpenCV decodes as the stored numbers, times the returned factor.

    A palette is removed, so that the indices become grey values; OpenCV would return colours. OpenCV scales greys of
    fewer than 8 bits to 0 to 255.
    """
    if not data.startswith(PNG) or len(data) < 33:
        return data, 1
    depth, color_type = data[24], data[25]
    if color_type not in (_GREY, _INDEXED):
        return data, 1
    if color_type == _INDEXED:
        header = b"IHDR" + data[16:25] + bytes([_GREY]) + data[26:29]
        chunks = without_chunks(data, b"IHDR", b"PLTE", b"tRNS", b"bKGD", b"hIST")[len(PNG) :]
        data = PNG + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + chunks
    return data, {1: 255, 2: 85, 4: 17}.get(depth, 1)


# ---------------------------------------------------------------- writing


def write(path: PathLike, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB, or (H, W) grey, in the format of the suffix, atomically; missing folders are created.

    Raises:
        DataError: When the suffix is not supported, or the file cannot be written (no permission, no space left).
    """
    _write(path, np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels))


def write_mask(path: PathLike, labels: np.ndarray) -> None:
    """Write a label map (H, W), values 0 to 65535, as a PNG of 8 bits, or 16 if needed.

    Raises:
        DataError: As `write`, and when the suffix is not ``.png`` or a value does not fit.
    """
    if Path(path).suffix.lower() != ".png":
        raise DataError("label maps are written as .png, which is lossless", path)
    if labels.ndim != 2 or (labels.size and not 0 <= labels.min() <= labels.max() < 2**16):
        raise DataError(f"not a label map (H, W) of 0 to 65535: shape {labels.shape}", path)
    _write(path, labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16))


def _write(path: PathLike, array: np.ndarray) -> None:
    cv2, path = opencv(), Path(path)
    try:
        _, encoded = cv2.imencode(path.suffix, array)
    except cv2.error:
        raise DataError(f"no image format is called {path.suffix!r}: use .png or .jpg", path) from None
    with written(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


# ---------------------------------------------------------------- drawing


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Color],
    opacity: float = 0.5,
    unpainted: Collection[int] = (),
) -> np.ndarray:
    """Return labels drawn in colour over their image: (H, W, 3) uint8 RGB.

    Args:
        image: (H, W, C) or (H, W), see `as_rgb`.
        labels: Class ids (H, W), where ids without a colour (255) leave the image unchanged; binary masks (K, H, W) of
            classes that may overlap, the last one on top; or floats (H, W), such as depths, which replace the image,
            from blue (the smallest) to red.
        palette: One RGB colour per class.
        opacity: Opacity of the colours, above 0, at most 1.
        unpainted: Ids of classes that leave the image unchanged, such as a background.

    Raises:
        UsageError: When opacity is outside that range.
        DataError: When the sizes differ.
    """
    if not 0 < opacity <= 1:
        raise UsageError(f"opacity must be above 0 and at most 1, not {opacity}")
    if labels.shape[-2:] != image.shape[:2]:
        raise DataError(f"labels of {labels.shape[-2:]} (height, width) do not fit an image of {image.shape[:2]}")
    if labels.dtype.kind == "f":
        return opencv().applyColorMap(_stretched(labels, 0, 100), opencv().COLORMAP_JET)[..., ::-1]
    if labels.ndim == 3:
        last = len(labels) - 1 - (labels[::-1] == 1).argmax(0)
        labels = np.where((labels == 1).any(0), last, IGNORE)
    colors = np.asarray(palette, np.uint8).reshape(-1, 3)
    known = (labels >= 0) & (labels < len(colors)) & ~np.isin(labels, list(unpainted))
    painted = colors[np.where(known, labels, 0)]
    image = as_rgb(image)
    mixed = opencv().addWeighted(painted, opacity, image, 1 - opacity, 0)
    return np.where(known[..., None], mixed, image)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image of any number of bands and depth as (H, W, 3) uint8: its first three bands, or the first.

    Other dtypes than uint8 are stretched from the 1st to the 99th percentile.

    Raises:
        DataError: When it is not an array (H, W) or (H, W, C) of numbers.
    """
    if image.ndim not in (2, 3) or image.dtype.kind not in "uif":
        raise DataError(f"an image must be an array (H, W, C) of numbers, this one is {image.shape} {image.dtype}")
    image = np.atleast_3d(image)
    bands = image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, 2)
    return np.ascontiguousarray(bands if bands.dtype == np.uint8 else _stretched(bands, 1, 99))


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return numbers as uint8, the ``low`` percentile as 0 and the ``high`` one as 255; NaN as 0."""
    finite = values[np.isfinite(values)]
    start, end = np.percentile(finite, (low, high)) if finite.size else (0, 1)
    scaled = (values.astype(np.float64) - start) * (255 / max(end - start, 1e-12))
    return np.nan_to_num(scaled).clip(0, 255).astype(np.uint8)
