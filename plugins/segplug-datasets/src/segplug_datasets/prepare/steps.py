"""Conversion steps for one file of a download."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.labels import IGNORE, Color
from segplug_datasets import image
from segplug_datasets.prepare.core import Step
from segplug_datasets.prepare.output import Output
from segplug_datasets.prepare.sources import SourceFile

_ROWS = 256
PLACE = "{target}_{left}_{top}_{right}_{bottom}.png"
"""Name of a tile in most converters of MMSegmentation."""


def copy(file: SourceFile, target: str, output: Output) -> None:
    """Copy a file as it is."""
    output.copy(target, file)


def picture(file: SourceFile, target: str, output: Output) -> None:
    """Write an image in the format of the target's name."""
    output.image(target, read(file))


def binary(file: SourceFile, target: str, output: Output) -> None:
    """Write a black and white image as labels: 1 from 128 on, since some have grey edges."""
    output.mask(target, (read(file)[..., 0] >= 128).astype(np.uint8))


def ids(table: Mapping[int, int]) -> Step:
    """Return a step that replaces the values of label files; one that the table lacks is an error."""

    def step(file: SourceFile, target: str, output: Output) -> None:
        output.mask(target, map_values(read(file, raw=True), table))

    return step


def tiles(
    size: int,
    step: int,
    place: str = PLACE,
    palette: Sequence[Color] | None = None,
    values: Mapping[int, int] | None = None,
) -> Step:
    """Return a step that cuts an image or, where it is given a palette or values, a label file into square tiles.

    Args:
        size: Side of a tile in pixels.
        step: From one tile to the next; the last of a row or column is moved back inside. What is smaller than a
            tile is padded at the right and bottom, images with 0, labels with 255.
        place: A tile's name, of ``target``, ``left``, ``top``, ``right`` and ``bottom`` in pixels.
        palette: Colours of label files; their places are the ids that are written, other colours become 0.
        values: Values of label files and what is written for them.
    """

    def cut(file: SourceFile, target: str, output: Output) -> None:
        labels = palette is not None or values is not None
        whole = read(file, raw=values is not None)
        if palette is not None:
            whole = colors_to_ids(whole, tuple(palette))
        elif values is not None:
            whole = map_values(whole, values)
        whole = _padded(whole, size, IGNORE if labels else 0)
        for top in starts(whole.shape[0], size, step):
            for left in starts(whole.shape[1], size, step):
                tile = whole[top : top + size, left : left + size]
                name = place.format(target=target, left=left, top=top, right=left + size, bottom=top + size)
                (output.mask if labels else output.image)(name, tile)

    return cut


def starts(length: int, size: int, step: int) -> list[int]:
    """Return tile starts along a side of ``length`` pixels, at least ``size``; the last tile ends at the edge."""
    return sorted({min(start, length - size) for start in range(0, length, step)})


def read(file: SourceFile, raw: bool = False) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB, or the raw values of a label file; one in gzip as well.

    Raises:
        DataError: When it cannot be decoded.
    """
    with file.local() as there, _unzipped(there) as path:
        try:
            return image.read_mask(path) if raw else image.read(path)
        except DataError as error:
            gif = "; OpenCV reads GIF from 4.11 on: pip install --upgrade opencv-python"
            hint = gif if path.suffix.lower() == ".gif" else ""
            raise DataError(f"{str(error).removeprefix(f'{path}: ')}{hint}", file.name) from error


def map_values(raw: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    """Map label values (H, W) by a table.

    Raises:
        DataError: When a value is not in the table.
    """
    if raw.ndim != 2:
        raise DataError(f"labels have two axes, these have the shape {raw.shape}")
    lookup = np.full(int(max(raw.max(initial=0), *table)) + 1, -1, np.int32)
    lookup[list(table)] = list(table.values())
    labels = lookup[raw]
    if labels.min(initial=0) < 0:
        strange = np.unique(raw[labels < 0])[:5].tolist()
        raise DataError(f"label values {strange} do not belong to this set")
    return labels


def colors_to_ids(pixels: np.ndarray, palette: tuple[Color, ...]) -> np.ndarray:
    """Return the palette index of each pixel's colour, (H, W) uint8; 0 for other colours."""
    table, places = _color_table(palette), np.empty(pixels.shape[:2], np.uint8)
    for top in range(0, len(pixels), _ROWS):  # the numbers of a whole aerial image would take hundreds of MB
        red, green, blue = (pixels[top : top + _ROWS, :, channel].astype(np.uint32) for channel in range(3))
        places[top : top + _ROWS] = table[red << 16 | green << 8 | blue]
    return places


@lru_cache(maxsize=4)
def _color_table(palette: tuple[Color, ...]) -> np.ndarray:
    table = np.zeros(1 << 24, np.uint8)
    for index, (red, green, blue) in enumerate(palette):
        table[red << 16 | green << 8 | blue] = index
    return table


def _padded(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    missing = [max(0, size - length) for length in array.shape[:2]]
    widths: Any = [(0, length) for length in missing] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, constant_values=fill) if any(missing) else array


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """Yield a path to read from: that of an unpacked copy for gzip files."""
    if path.suffix.lower() != ".gz":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="segkernel-") as folder:
        plain = Path(folder, path.stem)
        plain.write_bytes(unzipped(path.read_bytes(), str(path)))
        yield plain


def unzipped(data: bytes, name: str) -> bytes:
    """Unpack the data of a gzip file, by its name; return other data unchanged."""
    if not name.lower().endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"a damaged file, download it again: {error}", name) from error
