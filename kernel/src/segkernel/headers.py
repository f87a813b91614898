"""The structure of image files: the chunks of a PNG, the segments of a JPEG, the tags of a TIFF. Nothing is decoded.

    tiff_tags(Path("scene.tif").read_bytes()).get(277)      # (4,): samples per pixel

What is missing in a damaged file is left out; no data makes these functions raise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of segments with the size: depth, height, width and channels as ``>BHHB`` from the fifth byte on."""

TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""The first four bytes of a TIFF or a BigTIFF (+), and its byte order as `struct` writes it."""

_TIFF_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 16: "Q"}
_MOST_PAGES, _MOST_TAGS, _MOST_VALUES = 1 << 16, 4096, 3 * 65536  # a 16-bit palette, the longest


def image_size(data: bytes) -> tuple[int, int]:
    """Return height and width of a PNG, JPEG, TIFF, BMP or GIF as stored; (0, 0) if unknown."""
    height, width = 0, 0
    try:
        if data.startswith(PNG):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(JPEG):
            for marker, start, _ in jpeg_segments(data):
                if marker in JPEG_FRAMES:
                    height, width = struct.unpack_from(">HH", data, start + 5)
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
        elif data.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", data, 6)
        else:
            tags = tiff_tags(data)
            (height, *_), (width, *_) = tags.get(257, (0,)), tags.get(256, (0,))
    except struct.error:  # cut short
        pass
    return abs(height), abs(width)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, end) of each complete chunk; its content is ``data[start + 8 : end - 4]``."""
    start = len(PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            return
        yield data[start + 4 : start + 8], start, end
        start = end


def without_chunks(data: bytes, *names: bytes) -> bytes:
    """Return a PNG without the chunks of some names; other files are returned unchanged."""
    if not data.startswith(PNG) or not any(name in data[:_MOST_TAGS] for name in names):
        return data
    return PNG + b"".join(data[start:end] for name, start, end in png_chunks(data) if name not in names)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment before the pixels; its content is ``data[start + 4 : end]``."""
    start = len(JPEG)
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != 0xDA:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield data[start + 1], start, end
        start = end


def tiff_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the integer tags of the first image in a TIFF or a BigTIFF; none for other files."""
    fields = next(tiff_directories(data), {}).items()
    return {tag: struct.unpack_from(form, data, start) for tag, (start, form) in fields if not form.endswith("s")}


def tiff_directories(data: bytes) -> Iterator[dict[int, tuple[int, str]]]:
    """Yield for each image of a TIFF or a BigTIFF where the values of each tag start, and their `struct` format."""
    order, big = TIFF_ORDERS.get(data[:4], ""), b"+" in data[2:4]
    pointer, number, room, size = (order + "Q", order + "Q", 8, 20) if big else (order + "I", order + "H", 4, 12)
    seen = {0}
    try:
        (start,) = struct.unpack_from(pointer, data, room) if order else (0,)
        while start not in seen and len(seen) <= _MOST_PAGES:
            seen.add(start)
            (count,) = struct.unpack_from(number, data, start)
            start += struct.calcsize(number)
            stop = start + size * min(count, _MOST_TAGS)
            yield dict(_tiff_fields(data, range(start, min(stop, len(data) - size + 1), size), pointer, room))
            (start,) = struct.unpack_from(pointer, data, stop)
    except (struct.error, OverflowError):  # the file ends here
        pass


def _tiff_fields(data: bytes, entries: range, pointer: str, room: int) -> Iterator[tuple[int, tuple[int, str]]]:
    for entry in entries:
        tag, kind, count = struct.unpack_from(f"{pointer[0]}HH{pointer[1]}", data, entry)
        if kind not in _TIFF_TYPES or not 0 < count <= _MOST_VALUES:
            continue
        form, start = f"{pointer[0]}{count}{_TIFF_TYPES[kind]}", entry + 4 + room
        if struct.calcsize(form) > room:
            (start,) = struct.unpack_from(pointer, data, start)
        if start + struct.calcsize(form) <= len(data):
            yield tag, (start, form)
