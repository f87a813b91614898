"""The one decoder of images, which refuses what would be read wrong, and colours over them.

    picture = overlay(read("street.jpg"), labels, palette)

Images are (H, W, 3) uint8 RGB, label maps (H, W) integers. OpenCV does the work; it is imported when first needed.
segplug-datasets reads label files, and writes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.headers import JPEG, JPEG_FRAMES, PNG, jpeg_segments, png_chunks, tiff_tags
from segkernel.labels import IGNORE, Color
from segkernel.loadtimes import timed
from segkernel.opencv import opencv as opencv

PathLike = str | Path


# ---------------------------------------------------------------- reading


def read(path: PathLike) -> np.ndarray:
    """Return the image in a file as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey becomes RGB, alpha is left out, 16 bits are cut to the upper 8.

    Raises:
        DataError: When the file is missing, unreadable, empty, cut short, no image, or a raster that is no picture
            (bands that are no colours, signed or real numbers).
    """
    return decode(read_bytes(path), path)


def decode(data: bytes, path: PathLike) -> np.ndarray:
    """Return what `read` does of a file with these bytes."""
    cv2 = opencv()
    if data.startswith((PNG, JPEG)) and hasattr(cv2, "IMREAD_COLOR_RGB"):  # OpenCV 4.11: no pass to swap channels
        return decode_with(cv2.IMREAD_COLOR_RGB, data, path)
    image = decode_with(cv2.IMREAD_COLOR, data, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # in place: a reversed copy takes as long as a small JPEG


def read_bytes(path: PathLike) -> bytes:
    """Return the bytes of a file; the time it takes counts as reading.

    Raises:
        DataError: When it cannot be read, or is empty.
    """
    try:
        with timed("read"):
            data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error
    if not data:
        raise DataError("the file is empty", path)
    return data


def decode_with(flags: int, data: bytes, path: PathLike) -> np.ndarray:
    """Return what OpenCV decodes with these flags.

    Raises:
        DataError: When it would be wrong: the file is damaged, cut short, or no picture.
    """
    cv2 = opencv()
    if is_cut_short(data):
        raise DataError("the file is cut short: copy it again", path)
    try:
        if problem := _not_a_picture(data, flags == cv2.IMREAD_COLOR):
            raise DataError(f"{problem}: RasterDataset reads it", path)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # for example more pixels than OpenCV allows
        raise DataError(f"cannot be decoded: {error}", path) from error
    if image is None:
        raise DataError("not an image, or a damaged one", path)
    return image


def _not_a_picture(data: bytes, colors: bool) -> str:
    """Say what there is in a TIFF that OpenCV reads as something else, without a word."""
    tags = {tag: values[0] for tag, values in tiff_tags(data).items()}
    samples, is_color, extra = tags.get(277, 1), tags.get(262, 2) > 1, tags.get(338, 0)
    if samples > 4 or (not is_color and samples > (2 if extra else 1)):
        return f"a raster of {samples} bands"  # OpenCV gives the first
    if colors and (tags.get(339, 1) != 1 or tags.get(258, 1) > 16):
        return "a raster of signed, real or 32-bit numbers"  # OpenCV gives black and white
    if is_color and extra == 2:
        pixels = opencv().imdecode(np.frombuffer(data, np.uint8), -1)
        alpha = pixels[..., 3:] if pixels is not None and pixels.ndim == 3 else np.zeros(0, np.uint8)
        if alpha.dtype.kind == "u" and ((alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)).any():
            return "a raster of partly transparent colours"  # OpenCV darkens them
    return ""


def is_cut_short(data: bytes) -> bool:
    """Whether the end mark, or most of the pixels, are missing; OpenCV fills up in grey and says nothing."""
    if data.startswith(JPEG):
        start, pixels = _first_scan(data)
        return data.rfind(b"\xff\xd9", start) < 0 or pixels > _JPEG_DENSEST * len(data)
    return data.startswith(PNG) and not _is_whole_png(data)


def _is_whole_png(data: bytes) -> bool:
    """Whether the chunks lead to the end mark: OpenCV makes room for as many bytes as a damaged one claims."""
    width, height, depth = struct.unpack(">IIB", data[16:25].ljust(9, b"\0"))
    return width * height * depth <= _PNG_DENSEST * len(data) and any(name == b"IEND" for name, *_ in png_chunks(data))


# A damaged size claims gigabytes. No file holds more than so much in a byte:
_JPEG_DENSEST = 512  # pixels, 64 in the one bit that a block takes at least
_PNG_DENSEST = 8 * 1032  # bits, by the limit of its compression


def _first_scan(data: bytes) -> tuple[int, int]:
    """Return where a JPEG's pixels begin, past headers with perhaps a thumbnail and its end mark; and their number."""
    scan, pixels = len(JPEG), 0
    for marker, start, end in jpeg_segments(data):
        scan = end
        if marker in JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[start + 5 : start + 9].ljust(4, b"\0"))
            pixels = height * width
    return scan, pixels


# ---------------------------------------------------------------- drawing


def overlay(image: np.ndarray, labels: np.ndarray, palette: Sequence[Color], opacity: float = 0.5) -> np.ndarray:
    """Return labels as colours over their image: (H, W, 3) uint8 RGB.

    Args:
        image: (H, W, C) or (H, W), see `as_rgb`.
        labels: Class ids (H, W), of which those without a colour (255) leave the image as it is; binary masks (K, H, W)
            of classes that may overlap, the last one on top; or real numbers (H, W), such as depths, which are drawn
            in place of the image, from blue (the smallest) to red.
        palette: One RGB colour per class.
        opacity: Of the colours, above 0, at most 1.

    Raises:
        UsageError: When opacity is outside that range.
        DataError: When the sizes differ.
    """
    if not 0 < opacity <= 1:
        raise UsageError(f"opacity is above 0 and at most 1, not {opacity}")
    if labels.shape[-2:] != image.shape[:2]:
        raise DataError(f"labels of {labels.shape[-2:]} (height, width) do not fit an image of {image.shape[:2]}")
    if labels.dtype.kind == "f":
        return opencv().applyColorMap(_stretched(labels, 0, 100), opencv().COLORMAP_JET)[..., ::-1]
    if labels.ndim == 3:
        last = len(labels) - 1 - (labels[::-1] == 1).argmax(0)
        labels = np.where((labels == 1).any(0), last, IGNORE)
    colors = np.asarray(palette, np.uint8).reshape(-1, 3)
    known = (labels >= 0) & (labels < len(colors))
    painted = colors[np.where(known, labels, 0)]
    image = as_rgb(image)
    mixed = opencv().addWeighted(painted, opacity, image, 1 - opacity, 0)
    return np.where(known[..., None], mixed, image)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image of any bands and depth as (H, W, 3) uint8: the first three bands, or one.

    What is not uint8 is stretched from its 1st to its 99th percentile.

    Raises:
        DataError: When it is no array (H, W) or (H, W, C) of numbers.
    """
    if image.ndim not in (2, 3) or image.dtype.kind not in "uif":
        raise DataError(f"an image is an array (H, W, C) of numbers, this one is {image.shape} {image.dtype}")
    image = np.atleast_3d(image)
    bands = image[..., :3] if image.shape[2] > 2 else np.repeat(image[..., :1], 3, 2)
    return np.ascontiguousarray(bands if bands.dtype == np.uint8 else _stretched(bands, 1, 99))


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return numbers as uint8, the ``low`` percentile as 0 and the ``high`` one as 255; NaN as 0."""
    finite = values[np.isfinite(values)]
    start, end = np.percentile(finite, (low, high)) if finite.size else (0, 1)
    scaled = (values.astype(np.float64) - start) * (255 / max(end - start, 1e-12))
    return np.nan_to_num(scaled).clip(0, 255).astype(np.uint8)
