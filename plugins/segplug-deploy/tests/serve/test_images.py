"""Images of strangers: what is decoded, and what is refused before it costs anything."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from segplug_deploy.serve.images import decode
from segplug_deploy.serve.refusal import Limits, Refusal

PIXELS = np.random.default_rng(0).integers(0, 256, (21, 34, 3)).astype(np.uint8)
LIMITS = Limits(megapixels=0.001)


def encoded(suffix: str, *options: int, pixels: np.ndarray = PIXELS) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_known_formats_are_decoded_and_limited_by_their_header(suffix: str) -> None:
    data = encoded(suffix)
    assert decode(data, LIMITS).shape == (21, 34, 3)
    with pytest.raises(Refusal, match=r"34 x 21 pixels are more than the limit") as caught:
        decode(data, Limits(megapixels=0.0007))
    assert caught.value.status == 413


def test_lossless_webp_is_limited_by_its_header() -> None:
    data = encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    assert (decode(data, LIMITS) == PIXELS[..., ::-1]).all()
    with pytest.raises(Refusal, match="34 x 21"):
        decode(data, Limits(megapixels=0.0007))


def png_of_size(width: int, height: int) -> bytes:
    """Return a small PNG that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff_with(**tags: int) -> bytes:
    """Return a TIFF of one grey pixel with other tags."""
    numbers = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1}
    numbers |= {int(name[1:]): value for name, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(numbers.items()))
    return struct.pack("<4sI", b"II*\0", 8) + struct.pack("<H", len(numbers)) + entries + bytes(4)


JPEG = encoded(".jpg")
SCAN = JPEG[JPEG.index(b"\xff\xda") : -2]

HOSTILE = {
    "nothing": (b"", 422),
    "text": (b"hello", 415),
    "html": (b"<html><script>alert(1)</script>", 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", 415),
    "pdf": (b"%PDF-1.7 ...", 415),
    "zip": (b"PK\3\4" + bytes(40), 415),
    "gif": (b"GIF89a\xff\xff\xff\xff" + bytes(20), 415),
    "exr": (b"v/1\x01" + bytes(40), 415),
    "path": (b"/etc/passwd", 415),
    "png bomb": (png_of_size(60000, 60000), 413),
    "png of no width": (png_of_size(0, 5), 422),
    "png with too little data": (png_of_size(30, 30)[:-40], 422),
    "png, header only": (encoded(".png")[:20], 422),
    "png, half": (encoded(".png")[: len(encoded(".png")) // 2], 422),
    "png, damaged": (encoded(".png")[:60] + bytes(50) + encoded(".png")[110:], 422),
    "jpeg, half": (JPEG[: len(JPEG) // 2], 422),
    "jpeg, marker only": (JPEG[:2], 422),
    "jpeg of a thousand scans": (JPEG[:-2] + 1000 * SCAN + JPEG[-2:], 422),
    "webp, cut": (encoded(".webp")[:40], 422),
    "webp, header only": (b"RIFF\0\0\0\0WEBPVP8 ", 422),
    "bmp bomb": (b"BM" + bytes(16) + struct.pack("<ii", 50000, -50000) + bytes(30), 413),
    "tiff bomb": (tiff_with(t256=60000, t257=60000), 413),
    "tiff of giant tiles": (tiff_with(t322=1 << 20, t323=1 << 20), 413),
    "tiff, empty": (b"II*\0" + bytes(4), 422),
}


@pytest.mark.parametrize(("data", "status"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_usable_image_is_refused_with_a_message(data: bytes, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        decode(data, LIMITS)
    assert caught.value.status == status
    assert ":" in caught.value.message
    assert len(caught.value.message) < 300
