"""Headers of image files, read without decoding pixels: PNG, JPEG, TIFF, BMP, GIF and WebP.

    header = read_header(Path("a.jpg").read_bytes())
    header.format, header.size, header.orientation      # "jpeg", (480, 640), 6

Only what the mask doctor needs is read; values missing in damaged files stay at their defaults.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

from segkernel.headers import JPEG, JPEG_FRAMES, PNG, TIFF_ORDERS, image_size, jpeg_segments, png_chunks, tiff_tags
from segkernel.labels import Color
from segplug_datasets.containers import gif_palette, no_data, pages

SUFFIXES = {
    "png": (".png",),
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "tiff": (".tif", ".tiff"),
    "bmp": (".bmp", ".dib"),
    "gif": (".gif",),
    "webp": (".webp",),
}
"""The suffixes of each format; the first is the usual one."""


@dataclass(frozen=True)
class Header:
    """Header of an image file.

    Args:
        format: ``png``, ``jpeg``, ``tiff``, ``bmp``, ``gif``, ``webp``, or empty if unknown.
        size: Height and width in pixels, as stored; (0, 0) if unknown.
        channels: Values per pixel as stored, 1 for a palette; 0 if unknown.
        depth: Bits per value; 0 if unknown.
        floating: Whether values are floating point numbers.
        alpha: Whether one of the channels is transparency.
        orientation: EXIF orientation, 1 (upright) to 8.
        palette: RGB colours of the palette, by index.
        lossy: Whether the compression is lossy.
        pages: Number of pages or frames, of which the first is read.
        no_data: No-data value; None if not declared.
    """

    format: str = ""
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    depth: int = 0
    floating: bool = False
    alpha: bool = False
    orientation: int = 1
    palette: tuple[Color, ...] = ()
    lossy: bool = False
    pages: int = 1
    no_data: float | None = None


def read_header(data: bytes) -> Header:
    """Return the header of a file's bytes; an empty `Header` for an unknown format."""
    for start, reader in _READERS.items():
        if data.startswith(start):
            try:
                return replace(reader(data), pages=pages(data), no_data=no_data(data))
            except (struct.error, IndexError, ValueError, OverflowError):
                return Header(reader.__name__[1:])
    return Header()


def _png(data: bytes) -> Header:
    depth, kind = data[24], data[25]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 0)
    header = Header("png", image_size(data), channels, depth, alpha=kind in (4, 6))
    for name, start, end in png_chunks(data):
        content = data[start + 8 : end - 4]
        if name == b"PLTE":
            header = replace(header, palette=tuple(zip(content[::3], content[1::3], content[2::3])))
        elif name == b"eXIf":
            header = replace(header, orientation=_orientation(content))
        elif name == b"tRNS":
            header = replace(header, alpha=True)
        elif name == b"IDAT":
            break
    return header if kind == 3 else replace(header, palette=())


def _jpeg(data: bytes) -> Header:
    header = Header("jpeg", image_size(data), lossy=True)
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            header = replace(header, orientation=_orientation(data[start + 10 : end]))
        elif marker in JPEG_FRAMES:
            header = replace(header, depth=data[start + 4], channels=data[start + 9], alpha=False)
    return header


def _bmp(data: bytes) -> Header:
    (bits,) = struct.unpack_from("<H", data, 28)
    return Header("bmp", image_size(data), max(bits // 8, 1), min(bits, 8), alpha=bits == 32)


def _gif(data: bytes) -> Header:
    palette = tuple(gif_palette(data))
    is_grey = all(red == green == blue for red, green, blue in palette)
    return Header("gif", image_size(data), 1, 8, palette=() if is_grey else palette)


def _webp(data: bytes) -> Header:
    if data[8:12] != b"WEBP":
        return Header()
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        alpha, exif = bool(data[20] & 0x10), data.find(b"EXIF") if data[20] & 0x08 else -1
        orientation = _orientation(data[exif + 8 :].removeprefix(b"Exif\0\0")) if exif > 0 else 1
        return Header("webp", (height, width), 4 if alpha else 3, 8, False, alpha, orientation, (), b"VP8 " in data)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        alpha = bool(bits >> 28 & 1)
        return Header("webp", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1), 4 if alpha else 3, 8, False, alpha)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("webp", (height & 0x3FFF, width & 0x3FFF), 3, 8, lossy=True)


_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 258, 259, 262, 274
_SAMPLES, _COLORS, _EXTRA, _SAMPLE_FORMAT = 277, 320, 338, 339


def _tiff(data: bytes) -> Header:
    tags = tiff_tags(data)
    bits = tags.get(_BITS, (1,))
    colors = tags.get(_COLORS, ())
    third = len(colors) // 3
    palette = tuple(zip(*([v >> 8 for v in colors[i * third : (i + 1) * third]] for i in range(3)))) if third else ()
    return Header(
        "tiff",
        image_size(data),
        tags.get(_SAMPLES, (1,))[0],
        bits[0],
        floating=tags.get(_SAMPLE_FORMAT, (1,))[0] == 3,
        alpha=any(value in (1, 2) for value in tags.get(_EXTRA, ())),
        orientation=tags.get(_ORIENTATION, (1,))[0],
        palette=palette,
        lossy=tags.get(_COMPRESSION, (1,))[0] in (6, 7),
    )


def _orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block, which is a small TIFF."""
    value = tiff_tags(exif).get(_ORIENTATION, (1,))[0]
    return value if 1 <= value <= 8 else 1


_READERS = {
    PNG: _png,
    JPEG: _jpeg,
    **dict.fromkeys(TIFF_ORDERS, _tiff),
    b"BM": _bmp,
    b"GIF8": _gif,
    b"RIFF": _webp,
}


def orientation(path: str | Path) -> int:
    """Return the EXIF orientation of an image file, 1 (upright) to 8; 1 if it has none or cannot be read."""
    try:
        return read_header(Path(path).read_bytes()).orientation
    except OSError:
        return 1
