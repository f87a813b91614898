"""The one image decoder; rejects files that OpenCV would misread.

    pixels = read("street.jpg")         # (H, W, 3) uint8 RGB
    pixels = to_pixels(tensor)          # an image in memory: PIL's, a tensor or an array

OpenCV does the decoding; it is imported when first needed. segplug-datasets reads label files, writes and draws.
"""

from __future__ import annotations

import importlib
import math
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError, warn_renamed
from segkernel.headers import JPEG, PNG, image_size, jpeg_segments, png_chunks, tiff_tags, without_chunks
from segkernel.loadtimes import timed
from segkernel.opencv import opencv as opencv

PathLike = str | Path
MOST_PIXELS = 2**29
"""Limit for an image that is decoded as a whole; ``SEGKERNEL_MAX_PIXELS`` overrides it."""


def __getattr__(name: str) -> Any:
    if name not in ("overlay", "read_mask", "write", "write_mask"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed(f"segkernel.image.{name}", f"segplug_datasets.image.{name}")
    return getattr(importlib.import_module("segplug_datasets.image"), name)


def read(path: PathLike) -> np.ndarray:
    """Return the image in a file as (H, W, 3) uint8 RGB, rotated by its EXIF orientation.

    Grey becomes RGB, alpha is dropped, 16 bits are reduced to the upper 8.

    Raises:
        DataError: When the file is missing, unreadable, empty, truncated, not an image, or a raster that is not a
            colour or grey image (spectral bands, signed or floating-point values).
    """
    return decode(read_bytes(path), path)


def to_array(source: Any) -> Any:
    """Return a tensor, or a PIL image (as RGB unless it has 16 or 32 bits), as an array; anything else unchanged."""
    if hasattr(source, "getbands"):  # PIL need not be installed
        return np.asarray(source if source.mode[0] in "IF" else source.convert("RGB"))
    return source.detach().cpu().numpy() if hasattr(source, "detach") else source


def to_pixels(source: Any, channels: int = 3) -> np.ndarray:
    """Return an image in memory as (H, W, channels): uint8, or float32 from 0 to 255.

    Args:
        source: A PIL image, or an array or tensor (H, W), (H, W, C) or (C, H, W): uint8 (0 to 255) or float (0 to 1). C
            is ``channels``; for RGB also 1, grey, or 4, whose alpha is dropped. An array is read as (H, W, C) where
            both are possible; such a tensor is refused.
        channels: Channels of the model's input.

    Raises:
        UsageError: Another shape, dtype or range.
    """
    array = np.asarray(to_array(source))
    shaped = array[..., None] if array.ndim == 2 else array
    for wanted in ((channels,), (1, 4) if channels == 3 else ()):
        if axes := [axis for axis in (2, 0)[: array.ndim - 1] if shaped.ndim == 3 and shaped.shape[axis] in wanted]:
            break
    if not axes or (len(axes) > 1 and array is not source):
        text = "could be (H, W, C) or (C, H, W): give an array (H, W, C)" if axes else "is none; several are a list"
        raise UsageError(f"an image has {channels} channels, (H, W, C) or (C, H, W); {array.shape} {text}")
    pixels = np.moveaxis(shaped, axes[0], 2)
    pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] < channels else pixels[..., :channels]
    if pixels.dtype.kind == "f" and pixels.size and pixels.min() >= 0 and pixels.max() <= 1:
        return pixels.astype(np.float32) * 255
    if pixels.dtype != np.uint8 and pixels.size:
        given = f"{pixels.dtype} from {pixels.min():g} to {pixels.max():g}"
        raise UsageError(f"an image is uint8 (0 to 255) or float (0 to 1), not normalised; this is {given}")
    return pixels


def decode(data: bytes, path: PathLike) -> np.ndarray:
    """Return the image that `read` returns for a file with these bytes."""
    cv2 = opencv()
    if data.startswith((PNG, JPEG)) and hasattr(cv2, "IMREAD_COLOR_RGB"):  # OpenCV 4.11: no pass to swap channels
        return decode_with(cv2.IMREAD_COLOR_RGB, data, path)
    image = decode_with(cv2.IMREAD_COLOR, data, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)  # in place: a reversed copy takes as long as a small JPEG


def read_bytes(path: PathLike) -> bytes:
    """Return the bytes of a file, timed as the loading stage ``read``.

    Raises:
        DataError: When it cannot be read, is empty, or is not a regular file.
    """
    try:
        with timed("read"):
            if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise DataError("not a regular file", path)  # reading a device or a pipe may never end
            data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error
    if not data:
        raise DataError("the file is empty", path)
    return data


def refuse_giant(size: Sequence[int], path: PathLike) -> None:
    """Refuse an image that is too large, before memory is allocated: a few kilobytes can claim many gigabytes.

    Args:
        size: Height and width, or more axes, in pixels.
        path: The file.

    Raises:
        DataError: Above `MOST_PIXELS`.
    """
    limit = int(os.environ.get("SEGKERNEL_MAX_PIXELS") or MOST_PIXELS)
    if math.prod(size) > limit:
        hint = "RasterDataset with a 'window' reads it in parts; SEGKERNEL_MAX_PIXELS=N raises the limit"
        raise DataError(f"{' x '.join(map(str, size))} pixels are more than the limit of {limit}: {hint}", path)


def decode_with(flags: int, data: bytes, path: PathLike) -> np.ndarray:
    """Return the image as OpenCV decodes it with these flags.

    Raises:
        DataError: When the result would be wrong: the file is damaged, truncated, or not a colour or grey image.
    """
    cv2 = opencv()
    refuse_giant(image_size(data), path)
    if is_cut_short(data):
        raise DataError("the file is cut short: copy it again", path)
    try:
        if problem := _unsupported_raster(data, flags == cv2.IMREAD_COLOR):
            raise DataError(f"{problem}: RasterDataset reads it", path)
        image = cv2.imdecode(np.frombuffer(without_chunks(data, b"iCCP"), np.uint8), flags)  # libpng warns of profiles
    except cv2.error as error:  # for example more pixels than OpenCV allows
        raise DataError(f"cannot be decoded: {error}", path) from error
    if image is None:
        raise DataError(f"not an image that OpenCV {cv2.__version__} can read, or a damaged one", path)
    return image


def _unsupported_raster(data: bytes, colors: bool) -> str:
    """Return the content of a TIFF that OpenCV would misread without an error, or an empty string."""
    tags = {tag: values[0] for tag, values in tiff_tags(data).items()}
    samples, is_color, extra = tags.get(277, 1), tags.get(262, 2) > 1, tags.get(338, 0)
    if samples > 4 or (not is_color and samples > (2 if extra else 1)):
        return f"a raster of {samples} bands"  # OpenCV returns the first
    if colors and (tags.get(339, 1) != 1 or tags.get(258, 1) > 16):
        return "a raster of signed, floating-point or 32-bit values"  # OpenCV returns black and white
    if is_color and extra == 2:
        pixels = opencv().imdecode(np.frombuffer(data, np.uint8), -1)
        alpha = pixels[..., 3:] if pixels is not None and pixels.ndim == 3 else np.zeros(0, np.uint8)
        if alpha.dtype.kind == "u" and ((alpha > 0) & (alpha < np.iinfo(alpha.dtype).max)).any():
            return "a raster of partly transparent colours"  # OpenCV darkens them
    return ""


def is_cut_short(data: bytes) -> bool:
    """Whether the end marker, or most of the pixels, are missing; OpenCV fills them with grey without an error."""
    if data.startswith(JPEG):
        # After the headers, which may contain a thumbnail with an end mark.
        start = max((end for _, _, end in jpeg_segments(data)), default=len(JPEG))
        return data.rfind(b"\xff\xd9", start) < 0 or math.prod(image_size(data)) > _JPEG_DENSEST * len(data)
    return data.startswith(PNG) and not _is_whole_png(data)


def _is_whole_png(data: bytes) -> bool:
    """Whether the chunks reach the end mark: OpenCV allocates as many bytes as a damaged one claims."""
    width, height, depth = struct.unpack(">IIB", data[16:25].ljust(9, b"\0"))
    return width * height * depth <= _PNG_DENSEST * len(data) and any(name == b"IEND" for name, *_ in png_chunks(data))


# A damaged size can claim gigabytes. The most that one byte of a file can encode:
_JPEG_DENSEST = 512  # pixels: a block of 64 takes at least one bit
_PNG_DENSEST = 8 * 1032  # bits, the limit of its compression
