"""Images that strangers send: format, number of pixels and structure are checked before they are decoded."""

from __future__ import annotations

import numpy as np

from segkernel import image
from segkernel.errors import DataError
from segkernel.headers import JPEG, PNG, TIFF_ORDERS, image_size, tiff_tags
from segplug_deploy.serve.refusal import Limits, Refusal

FORMATS = ("PNG", "JPEG", "WebP", "BMP", "TIFF")
MOST_SCANS = 100
"""Scans of a progressive JPEG; each takes as long as a whole image. Encoders write about ten."""
_TILE_WIDTH, _TILE_HEIGHT = 322, 323


def decode(data: bytes, limits: Limits) -> np.ndarray:
    """Return the image in ``data`` as (H, W, 3) uint8 RGB, rotated by its EXIF orientation.

    Raises:
        Refusal: 413 for too many pixels, 415 for another format, 422 for a damaged file.
    """
    if not data:
        raise Refusal(422, "the image is empty: send the bytes of the file as the body, or a form with one file")
    if not _is_image(data):
        raise Refusal(
            415, f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image: convert it to one of these formats"
        )
    sizes = _claimed_sizes(data)
    if any(0 in size for size in sizes):
        raise Refusal(422, "the header of the image is damaged or cut short: send the whole file")
    for height, width in sizes:
        _check_pixels(height, width, limits)
    if data.startswith(JPEG) and data.count(b"\xff\xda") > MOST_SCANS:
        raise Refusal(422, f"the JPEG has more than {MOST_SCANS} scans: save it as a baseline JPEG")
    try:
        pixels = image.decode(data, "the image")
    except DataError as error:
        raise Refusal(422, str(error)) from error
    _check_pixels(pixels.shape[0], pixels.shape[1], limits)
    return pixels


def _is_image(data: bytes) -> bool:
    return data.startswith((PNG, JPEG, b"BM", *TIFF_ORDERS)) or _is_webp(data)


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _claimed_sizes(data: bytes) -> list[tuple[int, int]]:
    """Return height and width of everything that the decoder allocates by the header: the image, tiles of a TIFF."""
    sizes = [_webp_size(data) if _is_webp(data) else image_size(data)]
    tags = tiff_tags(data)
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        sizes.append((tags.get(_TILE_HEIGHT, (0,))[0], tags.get(_TILE_WIDTH, (0,))[0]))
    return sizes


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return height and width of a WebP, (0, 0) if unknown; see RFC 9649."""

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], "little")

    kind = data[12:16] if len(data) >= 30 else b""
    if kind == b"VP8X":
        return number(27, 3) + 1, number(24, 3) + 1
    if kind == b"VP8L":
        return (number(21, 4) >> 14 & 0x3FFF) + 1, (number(21, 4) & 0x3FFF) + 1
    return (number(28, 2) & 0x3FFF, number(26, 2) & 0x3FFF) if kind == b"VP8 " else (0, 0)


def _check_pixels(height: int, width: int, limits: Limits) -> None:
    if height * width > limits.pixels:
        raise Refusal(
            413,
            f"{width} x {height} pixels are more than the limit of {limits.megapixels:g} megapixels: send a smaller "
            "image, or raise --max-megapixels of the server",
        )
