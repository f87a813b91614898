"""How image files are built: the chunks of a PNG, the segments of a JPEG, the tags of a TIFF. Nothing is decoded.

    tiff_tags(Path("scene.tif").read_bytes()).get(277)      # (4,): samples per pixel

What damaged files lack is left out; nothing here raises for what is in the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of the segment with the size: depth, height, width and channels as ``>BHHB`` from its fifth byte on."""

TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""The first four bytes of a TIFF or a BigTIFF (+), and its byte order as `struct` writes it."""

_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TAGS, _MOST_VALUES = 4096, 3 * 65536  # the latter is a palette of 16 bits, the longest tag that anybody asks for


def image_size(data: bytes) -> tuple[int, int]:
    """Return height and width of a PNG, JPEG, TIFF, BMP or GIF as stored; (0, 0) when that is not said."""
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
    """Yield (name, start, end) of each chunk that is whole; its content is ``data[start + 8 : end - 4]``."""
    start = len(PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            return
        yield data[start + 4 : start + 8], start, end
        start = end


def without_chunks(data: bytes, *names: bytes) -> bytes:
    """Return a PNG without the chunks of some names, and any other file as it is."""
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
    """Return the tags of whole numbers in the first directory of a TIFF or a BigTIFF; none for any other file."""
    order, big = TIFF_ORDERS.get(data[:4], ""), b"+" in data[2:4]
    pointer, room, entry = ("Q", 8, 20) if big else ("I", 4, 12)
    tags: dict[int, tuple[int, ...]] = {}
    try:
        (place,) = struct.unpack_from(order + pointer, data, room) if order else (len(data),)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
        place += 8 if big else 2
        for start in range(place, place + entry * min(count, _MOST_TAGS), entry):
            tag, kind, length = struct.unpack_from(f"{order}HH{pointer}", data, start)
            if kind not in _TIFF_TYPES or not 0 < length <= _MOST_VALUES:
                continue
            values = struct.Struct(f"{order}{length}{_TIFF_TYPES[kind]}")
            start += entry - room
            (start,) = struct.unpack_from(order + pointer, data, start) if values.size > room else (start,)
            if start + values.size <= len(data):
                tags[tag] = values.unpack_from(data, start)
    except (struct.error, OverflowError):  # the file ends here
        pass
    return tags
