"""The structure of image files, whole and damaged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segkernel.headers import JPEG_FRAMES, jpeg_segments, png_chunks, tiff_tags

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype(np.uint8)
WIDTH, HEIGHT, SAMPLES = 256, 257, 277


def encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, PIXELS)[1].tobytes()


def test_the_chunks_of_a_png_lead_to_its_end() -> None:
    data = encoded(".png")
    chunks = list(png_chunks(data))
    assert [chunks[0][0], chunks[-1][0]] == [b"IHDR", b"IEND"]
    assert chunks[-1][2] == len(data)
    _, start, end = chunks[0]
    assert int.from_bytes(data[start + 8 : end - 4][:4], "big") == 8


def test_a_truncated_chunk_is_left_out() -> None:
    assert b"IEND" not in [name for name, *_ in png_chunks(encoded(".png")[:-1])]


def test_the_segments_of_a_jpeg_end_where_its_pixels_begin() -> None:
    data = encoded(".jpg")
    segments = list(jpeg_segments(data))
    (frame,) = (start for marker, start, _ in segments if marker in JPEG_FRAMES)
    assert data[frame + 4 : frame + 10] == bytes([8, 0, 6, 0, 8, 3])
    assert data[segments[-1][2] :][:2] == b"\xff\xda"


def test_the_tags_of_a_tiff() -> None:
    tags = tiff_tags(encoded(".tif"))
    assert (tags[WIDTH], tags[HEIGHT], tags[SAMPLES]) == ((8,), (6,), (3,))
    assert len(tags[258]) == 3


@pytest.mark.parametrize("data", [b"", b"II*\0", encoded(".png"), b"MM\0+" + b"\xff" * 40], ids=range(4))
def test_data_that_is_not_a_tiff_has_no_tags(data: bytes) -> None:
    assert tiff_tags(data) == {}


@pytest.mark.parametrize("reader", [png_chunks, jpeg_segments, tiff_tags])
def test_truncation_at_any_byte_raises_nothing(reader) -> None:
    for suffix in (".png", ".jpg", ".tif"):
        data = encoded(suffix)
        for length in range(0, len(data), 7):
            list(reader(data[:length]))
