"""Windowed reading of multi-band rasters of any type: TIFF, NumPy arrays, PNG and JPEG.

    file = open_raster("scene.tif")
    file.read(Window(0, 512, 256, 256), bands=[3, 2, 1])       # (256, 256, 3), the file's values

TIFF (tiled, in strips, compressed, BigTIFF, bands side by side or one after the other) needs ``tifffile``, and most
compressions ``imagecodecs``: ``pip install "segplug-datasets[raster]"``; else rasterio reads them, if it is installed.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np

from segkernel.errors import DataError, SegKernelError
from segkernel.image import refuse_giant
from segplug_datasets import image
from segplug_datasets.optional_deps import require_package

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it warns of every unusual tag


_PLAIN = (1, 8, 32946)
"""Compressions of TIFF that tifffile decodes alone: none, and two codes of deflate."""


class Window(NamedTuple):
    """A part of a raster, in pixels."""

    top: int
    left: int
    height: int
    width: int


class RasterFile(Protocol):
    """An open raster.

    ``size`` is height and width, ``bands`` their number, ``nodata`` the file's own no-data value.
    """

    size: tuple[int, int]
    bands: int
    nodata: float | None

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        """Return a copy of a window, (height, width, bands), in the file's dtype."""
        ...


def open_raster(path: str) -> RasterFile:
    """Open a raster; each process keeps the last few open, for each thread its own.

    Raises:
        DataError: When it is missing or damaged.
        ExtraMissingError: When it is a TIFF and ``tifffile`` is missing.
    """
    # A forked process or another thread must not share a file's position.
    return _opened(path, stamp(path), os.getpid(), threading.get_ident())


def stamp(path: str) -> tuple[int, int]:
    """Return size and modification time of a file; zeros if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=8)
def _opened(path: str, version: tuple[int, int], process: int, thread: int) -> RasterFile:
    if path.lower().endswith((".tif", ".tiff")):
        file = _Tiff(path)
        return file if file.is_decoded_here or find_spec("rasterio") is None else _Gdal(path, file)
    return _Whole(path)


class _Whole:
    """An array in memory, or in a memory-mapped file."""

    nodata: float | None = None

    def __init__(self, path: str) -> None:
        array = _load_array(path) if path.endswith(".npy") else image.read_mask(path)
        self._array = array if array.ndim == 3 else array[..., None]
        self.size, self.bands = self._array.shape[:2], self._array.shape[2]

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        return np.ascontiguousarray(_cut(self._array, window)[..., list(bands)])


def _load_array(path: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError("no such file", path) from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read as an array of numbers: {error}", path) from error
    if array.ndim not in (2, 3):
        raise DataError(f"expected an array (height, width, bands), this one has shape {array.shape}", path)
    return array


class _Tiff:
    """A TIFF; bands may be spread over several pages."""

    def __init__(self, path: str) -> None:
        self.path = path
        tifffile = require_package("tifffile", "raster", "reading rasters")
        try:
            self._file = tifffile.TiffFile(path)
            self._pages = [page for page in self._file.series[0].pages if page is not None]
            page = self._pages[0].keyframe
            if not all(page.shaped):
                raise ValueError("it has no pixels")
            self._planes, _, *size, self._samples = page.shaped
            self.size = (size[0], size[1])
            self.bands = len(self._pages) * self._planes * self._samples
            self.nodata = _nodata(page)
            self.is_decoded_here = int(page.compression) in _PLAIN or find_spec("imagecodecs") is not None
        except FileNotFoundError:
            raise DataError("no such file", path) from None
        except Exception as error:  # tifffile may raise anything on a damaged file
            raise DataError(f"cannot be read as a TIFF: {error}", path) from error

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        refuse_giant((window.height, window.width), self.path)
        of_page = self._planes * self._samples
        parts: dict[int, np.ndarray] = {}
        try:
            for number in sorted({band // of_page for band in bands}):
                inside = sorted({band % of_page for band in bands if band // of_page == number})
                array = self._read_page(self._pages[number], window, inside)
                parts |= {number * of_page + band: array[..., place] for place, band in enumerate(inside)}
        except SegKernelError:
            raise
        except Exception as error:
            raise DataError(f"cannot be read: {error}{_hint(error)}", self.path) from error
        return np.stack([parts[band] for band in bands], axis=-1)

    def _read_page(self, page: Any, window: Window, bands: Sequence[int]) -> np.ndarray:
        """Return (height, width, bands) of one page."""
        planes = bands if self._planes > 1 else [0]
        if page.keyframe.is_final:
            whole = self._map(page)
            array = np.stack([_cut(whole[plane], window) for plane in planes])
        else:
            array = self._decode(page, window, planes)
        return array[..., 0].transpose(1, 2, 0) if self._planes > 1 else array[0][..., list(bands)]

    def _map(self, page: Any) -> np.ndarray:
        """Return all planes (planes, height, width, samples) of a page that is not compressed."""
        kind = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        return np.memmap(self.path, kind, "r", page.dataoffsets[0], page.keyframe.shaped)[:, 0]

    def _decode(self, page: Any, window: Window, planes: Sequence[int]) -> np.ndarray:
        """Return (planes, height, width, samples) from the tiles or strips that the window touches."""
        key = page.keyframe
        indices = _touched(key, window, planes)
        offsets, lengths = ([numbers[i] for i in indices] for numbers in (page.dataoffsets, page.databytecounts))
        # Zeroed memory is allocated on first write: a damaged header may request any amount.
        result = np.zeros((len(planes), window.height, window.width, self._samples), key.dtype)
        if key.nodata:
            result[...] = key.nodata
        arguments: dict[str, Any] = {}
        if key.compression in (6, 7, 34892, 33007):  # kinds of JPEG, whose tables are stored separately
            arguments = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        for data, number in self._file.filehandle.read_segments(offsets, lengths):
            segment, (plane, _, top, left, _), _ = key.decode(data, indices[number], **arguments)
            if segment is not None:
                _paste(segment[0], top, left, result[planes.index(plane)], window)
        return result


class _Gdal:
    """A TIFF of a compression that only GDAL reads here."""

    def __init__(self, path: str, plain: _Tiff) -> None:
        self.path, self.size, self.nodata = path, plain.size, plain.nodata
        self._rasterio = rasterio = require_package("rasterio", "rasterio", "reading this raster")
        warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)  # pixels are fine, too
        try:
            self._file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise DataError(f"cannot be read as a TIFF: {error}", path) from error
        self.bands = self._file.count

    def read(self, window: Window, bands: Sequence[int]) -> np.ndarray:
        refuse_giant((window.height, window.width), self.path)
        place = self._rasterio.windows.Window(window.left, window.top, window.width, window.height)
        try:
            planes = self._file.read([band + 1 for band in bands], window=place)
        except self._rasterio.errors.RasterioError as error:
            raise DataError(f"cannot be read: {error}", self.path) from error
        return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _touched(key: Any, window: Window, planes: Sequence[int]) -> list[int]:
    """Return the numbers of the tiles or strips that a window touches."""
    height, width = key.imagelength, key.imagewidth
    step_y, step_x = (key.tilelength, key.tilewidth) if key.is_tiled else (min(key.rowsperstrip, height), width)
    across, down = math.ceil(width / step_x), math.ceil(height / step_y)
    rows = range(window.top // step_y, math.ceil((window.top + window.height) / step_y))
    columns = range(window.left // step_x, math.ceil((window.left + window.width) / step_x))
    return [(plane * down + row) * across + column for plane in planes for row in rows for column in columns]


def _paste(segment: np.ndarray, top: int, left: int, result: np.ndarray, window: Window) -> None:
    """Copy the part of a segment (h, w, samples) at (top, left) that is inside the window."""
    first_y, first_x = max(top, window.top), max(left, window.left)
    last_y = min(top + segment.shape[0], window.top + window.height)
    last_x = min(left + segment.shape[1], window.left + window.width)
    part = segment[first_y - top : last_y - top, first_x - left : last_x - left]
    result[first_y - window.top : last_y - window.top, first_x - window.left : last_x - window.left] = part


def _cut(array: np.ndarray, window: Window) -> np.ndarray:
    top, left, height, width = window
    return array[top : top + height, left : left + width]


def _nodata(page: Any) -> float | None:
    """Return the no-data value in GDAL's tag; None without one."""
    tag = page.tags.get(42113)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _hint(error: Exception) -> str:
    return "\n    pip install 'segplug-datasets[raster]'" if "imagecodecs" in str(error) else ""
