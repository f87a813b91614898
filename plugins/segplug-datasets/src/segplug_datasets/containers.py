"""Contents of image files besides their pixels: further pages and frames, palettes, no-data values.

Nothing is decoded; missing parts of damaged files are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal

import numpy as np

from segkernel.headers import PNG, TIFF_ORDERS, png_chunks, tiff_directories, tiff_tags

PHOTOMETRIC, BITS, COLORS, REDUCED, NO_DATA = 262, 258, 320, 254, 42113


def pages(data: bytes) -> int:
    """Return the number of images in a file, at least 1: TIFF pages without previews, or frames of an animation."""
    if data[:4] in TIFF_ORDERS:
        order: Literal["big", "little"] = "big" if data.startswith(b"MM") else "little"
        kinds = [int.from_bytes(_content(data, page.get(REDUCED)), order) for page in tiff_directories(data)]
        return max(sum(not kind & 0b101 for kind in kinds), 1)  # neither previews nor transparency masks
    if data.startswith(b"GIF8"):
        return max(sum(1 for _ in _gif_frames(data)), 1)
    if data.startswith(b"RIFF") and data[12:16] == b"VP8X" and data[20:21] and data[20] & 2:
        return max(data.count(b"ANMF"), 1)
    if data.startswith(PNG):
        control = next((start for name, start, _ in png_chunks(data[:4096]) if name == b"acTL"), None)
        return 1 if control is None else max(int.from_bytes(data[control + 8 : control + 12], "big"), 1)
    return 1


def no_data(data: bytes) -> float | None:
    """Return the no-data value in a TIFF's GDAL tag; None without one."""
    text = _content(data, next(tiff_directories(data), {}).get(NO_DATA))
    try:
        return float(text.strip(b"\0 ")) if text else None
    except ValueError:
        return None


def with_numbers_for_colors(data: bytes) -> bytes:
    """Replace the palette of a BMP, GIF or TIFF by one that maps each index to that grey; others are unchanged.

    GIFs store greys in palettes only, so a grey palette of a GIF is kept.
    """
    if data[:4] in TIFF_ORDERS:
        return _numbered_tiff(data)
    if data.startswith(b"BM") and len(data) > 54:
        header = int.from_bytes(data[14:18], "little")
        bits, size = (data[24], 3) if header == 12 else (data[28], 4)
        return _patched(data, 14 + header, 1 << bits, size) if bits in (1, 2, 4, 8) else data
    return _numbered_gif(data) if data.startswith(b"GIF8") else data


def gif_palette(data: bytes) -> list[tuple[int, int, int]]:
    """Return the colours of the first frame of a GIF."""
    start, count = next(_gif_frames(data), (0, 0, 0))[:2]
    return [(data[at], data[at + 1], data[at + 2]) for at in range(start, min(start + 3 * count, len(data) - 2), 3)]


def _content(data: bytes, field: tuple[int, str] | None) -> bytes:
    start, form = field or (0, "0s")
    return data[start : start + struct.calcsize(form)]


def _numbered_tiff(data: bytes) -> bytes:
    tags = tiff_tags(data)
    count = len(tags.get(COLORS, ()))
    if tags.get(PHOTOMETRIC) != (3,) or count % 3 or not 0 < count <= 3 << 8:
        return data
    place, form = next(tiff_directories(data))[COLORS]
    greys = np.tile(np.arange(count // 3) * 257, 3)
    return data[:place] + struct.pack(form, *greys.tolist()) + data[place + struct.calcsize(form) :]


def _numbered_gif(data: bytes) -> bytes:
    start, count, control = next(_gif_frames(data), (0, 0, 0))
    if not count or all(red == green == blue for red, green, blue in gif_palette(data)):
        return data
    if control:  # every index is drawn, also the transparent one
        data = data[:control] + bytes([data[control] & ~1]) + data[control + 1 :]
    return _patched(data, start, count, 3)


def _patched(data: bytes, start: int, count: int, size: int) -> bytes:
    """Replace a palette of ``count`` entries of ``size`` bytes by greys."""
    greys = b"".join(bytes([number] * 3 + [0] * (size - 3)) for number in range(count))
    room = max(len(data) - start, 0)
    if data.startswith(b"BM"):  # pixels may start before the full palette ends
        room = max(int.from_bytes(data[10:14], "little") - start, 0)
    greys = greys[:room]
    return data[:start] + greys + data[start + len(greys) :]


def _gif_frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the offset of each frame's palette, its number of colours, and the offset of its control flags."""
    flags = data[10] if len(data) > 12 else 0
    shared = (13, 2 << (flags & 7)) if flags & 0x80 else (0, 0)
    place, control = 13 + 3 * shared[1], 0
    while place + 10 < len(data):
        if data[place] == 0x21:  # an extension
            control = place + 3 if data[place + 1] == 0xF9 else control
            place = _behind_blocks(data, place + 2)
        elif data[place] == 0x2C:  # a frame
            flags = data[place + 9]
            own = (place + 10, 2 << (flags & 7)) if flags & 0x80 else shared
            yield *own, control
            place = _behind_blocks(data, place + 11 + (3 * own[1] if flags & 0x80 else 0))
        else:
            return


def _behind_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1
