"""Rasters: multi-band images of any type, such as satellite and aerial images, whole or in windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval

from segkernel.annotations import FileName, NonNegativeInt, PositiveInt
from segkernel.errors import DataError, UsageError
from segkernel.labels import IGNORE, Color
from segkernel.sample import LabelMap, Sample
from segplug_datasets import image
from segplug_datasets.change import SECOND, PairReader, SecondImage
from segplug_datasets.files import PairedFiles
from segplug_datasets.label_reader import LabelArguments, LabelReader, label_reader
from segplug_datasets.listing import find_files, require_files, resolve
from segplug_datasets.mapping import Metainfo
from segplug_datasets.ranges import Range
from segplug_datasets.raster_file import Window, open_raster, stamp

RASTER_SUFFIXES = (".tif", ".tiff", ".npy", ".png", ".jpg", ".jpeg")

_SAMPLED_PIXELS = 2048 * 2048
"""Pixels of a raster up to which percentiles use all of it."""

Percent = Annotated[float, Interval(ge=0, le=100)]


class RasterDataset(PairedFiles):
    """A folder of rasters and a folder of masks; MMSegmentation loads such images with ``LoadSingleRSImageFromFile``
    and ``LoadMultipleRSImageFromFile``.

    The channels of images are the chosen bands, in order, so ``data.preprocess`` needs ``mean`` and ``std`` of that
    length, and the backbone ``in_channels``. They are uint8 for 8-bit files and for values mapped to 0 to 255, else
    float32. Rasters are TIFF (with the extra ``raster``), ``.npy`` arrays (H, W, bands), PNG and JPEG.

    Args:
        images: Folder of rasters, or several, whose files of the same name are stacked band by band.
        masks: Folder of label files with the same names, in any of these formats; None when there are no annotations.
        classes: Class names; the position is the class id.
        palette: One RGB colour per class; when given, masks may contain these colours instead of ids.
        ignore: Values of the label files that are ignored.
        offset: Subtracted from a value to give the class id; smaller values are ignored.
        values: File value to class id, for sparse ids.
        ignore_colors: Colours of colour masks that are ignored.
        metainfo: Classes to select, rename or merge; all when None.
        bands: Bands to read, counted from 0, in this order; all when None.
        value_range: Values (low, high) that are mapped to 0 and 255, for all bands or one pair per band; values outside
            are clipped.
        percentiles: Determines the range per raster and band: (2, 98) clips the darkest and brightest 2 %.
        scale: Factor on values that are not mapped to a range.
        dtype: Type of the image when values are mapped to 0 to 255; ``float32`` keeps fractions.
        nodata: The no-data value; ``file`` uses that of the TIFF. No-data pixels and NaN become 0 in the image; where
            all bands have no data, the label is 255.
        window: (height, width): samples are windows of the rasters, and only the window is read.
        overlap: Overlap of neighbouring windows in pixels, or (vertical, horizontal).
        border: Last window of a row or column: ``cut`` makes it smaller, so that without overlap each pixel is
            evaluated once; ``shift`` moves it back, so that all have the same size.
        images2: Folder of second images, the field ``img2``, read as the first ones.
        split: Text file with one name per line, relative to ``data_root``; all files when None.
        image_suffix: Suffix of the raster file names; the usual formats when None.
        mask_suffix: Suffix of the label file names.
        data_root: Folder to which the other paths are relative.
        indices: The first N rasters for N, the last N for -N, those listed for a list; all when None.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
        UsageError: When arguments contradict each other.
        ExtraMissingError: When ``tifffile`` is missing and TIFFs are cut into windows.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return arguments that read it."""
        for number, size in enumerate([(12, 16), (9, 20)]):
            rng = np.random.default_rng(number)
            (folder / "images").mkdir(parents=True, exist_ok=True)
            np.save(folder / "images" / f"{number}.npy", rng.integers(0, 4000, (*size, 5), np.uint16))
            image.write_mask(folder / "masks" / f"{number}.png", rng.choice(np.array([0, 1, IGNORE], np.uint8), size))
        whole = {"data_root": str(folder), "images": "images", "masks": "masks"}
        windows = {"bands": [3, 0], "percentiles": (2, 98), "window": (8, 8), "overlap": 2}
        return [whole, {**whole, **windows}]

    def __init__(
        self,
        images: FileName | Sequence[FileName],
        masks: str | Path | None = None,
        classes: Sequence[str] = ("background", "foreground"),
        palette: Sequence[Color] | None = None,
        ignore: Sequence[int] = (IGNORE,),
        offset: int = 0,
        values: Mapping[int, int] | None = None,
        ignore_colors: Sequence[Color] = (),
        metainfo: Metainfo | None = None,
        bands: Sequence[int] | None = None,
        value_range: Range | Sequence[Range] | None = None,
        percentiles: tuple[Percent, Percent] | None = None,
        scale: float = 1.0,
        dtype: Literal["uint8", "float32"] = "uint8",
        nodata: float | Literal["file"] | None = "file",
        window: tuple[PositiveInt, PositiveInt] | None = None,
        overlap: NonNegativeInt | tuple[NonNegativeInt, NonNegativeInt] = 0,
        border: Literal["cut", "shift"] = "cut",
        images2: str | Path | None = None,
        split: str | Path | None = None,
        image_suffix: str | None = None,
        mask_suffix: str = ".png",
        data_root: str | Path | None = None,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        root = resolve(data_root)
        self.data_root = str(root)
        numbers = _Values(_ranges(value_range), percentiles, scale, dtype, nodata)
        self._read = RasterReader(_checked_bands(bands), numbers).window
        grid = None if window is None else _Grid(window, _pair(overlap), border)
        labels = LabelArguments(
            classes=classes,
            palette=palette,
            ignore=ignore,
            offset=offset,
            values=values,
            ignore_colors=ignore_colors,
            metainfo=metainfo,
        )
        self._labels = _Labels(label_reader(labels))
        suffixes = image_suffix or RASTER_SUFFIXES
        folders = [resolve(root, folder) for folder in ([images] if isinstance(images, (str, Path)) else images)]
        super().__init__(
            images=folders[0],
            masks=resolve(root, masks) if masks is not None else None,
            labels=self._labels.labels,
            image_suffix=suffixes,
            mask_suffix=mask_suffix,
            split=resolve(root, split) if split is not None else None,
            colors=self._labels.colors,
            indices=indices,
            root=root,
        )
        names = [name for name, _, _ in self._files]
        self._stacks = [[path for _, path, _ in self._files], *(_partners(f, suffixes, names) for f in folders[1:])]
        self._seconds = None if images2 is None else _partners(resolve(root, images2), suffixes, names)
        self._windows = None if grid is None else self._cut(grid)

    @classmethod
    def image_reader(
        cls,
        bands: Sequence[int] | None = None,
        value_range: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
        percentiles: tuple[float, float] | None = None,
        scale: float = 1.0,
        dtype: Literal["uint8", "float32"] = "uint8",
        nodata: float | Literal["file"] | None = "file",
        images2: str | None = None,
    ) -> RasterReader | PairReader:
        """Return a reader of rasters or arrays with all bands, as in the samples; of pairs with ``images2``."""
        reader = RasterReader(_checked_bands(bands), _Values(_ranges(value_range), percentiles, scale, dtype, nodata))
        return reader if images2 is None else PairReader(reader)

    def __len__(self) -> int:
        return len(self._files) if self._windows is None else len(self._windows)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number, window = self._place(index % len(self))
        name, path, mask_path = self._files[number]
        pixels, missing = self._read([stack[number] for stack in self._stacks], window)
        sample = Sample(image=pixels, meta={"path": path, "name": name})
        if self._windows is not None:
            sample.meta |= {"name": f"{name}_{window.top}_{window.left}", "window": tuple(window)}
        if self._seconds is not None:
            sample[SECOND] = SecondImage(self._read([self._seconds[number]], window)[0])
            sample.meta["path2"] = self._seconds[number]
        if mask_path is not None:
            ids = self._labels.read_window(mask_path, window, self._size(number), path)
            sample["seg"] = LabelMap(np.where(missing, np.uint8(IGNORE), ids))
            sample.meta["mask_path"] = mask_path
        return sample

    def _place(self, index: int) -> tuple[int, Window]:
        if self._windows is None:
            return index, Window(0, 0, *self._size(index))
        number, *window = self._windows[index].tolist()
        return number, Window(*window)

    def _size(self, number: int) -> tuple[int, int]:
        return open_raster(self._stacks[0][number]).size

    def _cut(self, grid: _Grid) -> np.ndarray:
        """Return (samples, 5): number of the raster, and the window in it."""
        places = [(number, *window) for number in range(len(self._files)) for window in grid.cut(self._size(number))]
        return np.array(places, np.int64)


class RasterReader:
    """Selects bands of rasters and maps their values to image values."""

    def __init__(self, bands: Sequence[int] | None, values: _Values) -> None:
        self._bands, self._values = bands, values

    def __call__(self, source: str | Path | np.ndarray) -> np.ndarray:
        """Return a whole raster, or an array (H, W, bands) or (H, W) of its values, as an image (H, W, C).

        Raises:
            DataError: When the file cannot be read, or has too few bands.
        """
        if isinstance(source, np.ndarray):
            return self._array(source)
        path = str(source)
        return self.window([path], Window(0, 0, *open_raster(path).size))[0]

    def window(self, paths: Sequence[str], window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Return the image of a window, and a mask (height, width) of pixels without data in all bands.

        Args:
            paths: Files whose bands are stacked.
            window: The window to read.
        """
        parts = _chosen(paths, self._bands)
        raw, gaps, ranges = [], [], []
        for path, bands in parts:
            file = open_raster(path)
            _require_resolution(path, file.size, paths[0], open_raster(paths[0]).size)
            array = file.read(window, bands)
            if array.dtype.kind not in "uifb":
                raise DataError(f"contains {array.dtype}: only real numbers are supported", path)
            raw.append(array)
            gaps.append(self._values.gaps(array, file.nodata))
            if self._values.percentiles:
                ranges += _found_ranges(path, stamp(path), tuple(bands), self._values)
        missing = np.concatenate(gaps, -1)
        pixels = self._values.mapped(np.concatenate(raw, -1), missing, ranges or self._values.ranges, paths[0])
        return pixels, np.asarray(missing.all(-1))

    def _array(self, array: np.ndarray) -> np.ndarray:
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or array.dtype.kind not in "uif":
            raise DataError(f"an image must be numbers (H, W, bands), this one is {array.shape} {array.dtype}")
        bands = range(array.shape[2]) if self._bands is None else self._bands
        if max(bands) >= array.shape[2]:
            raise DataError(f"an array of {array.shape[2]} bands, but 'bands' has {max(bands)} (counted from 0)")
        chosen = np.ascontiguousarray(array[..., list(bands)])
        gaps = self._values.gaps(chosen, None)
        ranges = _percentiles(chosen, gaps, self._values) if self._values.percentiles else self._values.ranges
        return self._values.mapped(chosen, gaps, ranges, "the array")


class _Labels(LabelReader):
    """Reads windows of label files."""

    def __init__(self, reader: LabelReader) -> None:
        super().__init__(reader.labels, reader.colors)

    def read_window(self, path: str, window: Window, size: tuple[int, int], image_path: str) -> np.ndarray:
        """Return class ids (height, width) of a window of the label file of an image of ``size``."""
        file = open_raster(path)
        if tuple(file.size) != tuple(size):
            there, here = (f"{height} x {width}" for height, width in (file.size, size))
            raise DataError(f"a mask of {there} for an image of {here} pixels: {image_path}", path)
        if file.bands not in (1, 3, 4):
            raise DataError(f"a mask must have one band, or three for colours, this one has {file.bands}", path)
        raw = file.read(window, range(file.bands))
        if raw.dtype.kind not in "uibf":
            raise DataError(f"labels must be integers, this file contains {raw.dtype}", path)
        raw = image.whole_numbers(raw[..., 0] if file.bands == 1 else raw[..., :3], path)
        return self.encode(raw, file.nodata, path, image_path)


@dataclass(frozen=True)
class _Values:
    """Mapping of file values to image values."""

    ranges: tuple[Range, ...] | None
    percentiles: Range | None
    scale: float
    dtype: Literal["uint8", "float32"]
    nodata: float | Literal["file"] | None

    def __post_init__(self) -> None:
        if self.ranges and self.percentiles:
            raise UsageError("give 'value_range' or 'percentiles', not both")
        if self.scale != 1 and (self.ranges or self.percentiles):
            raise UsageError("'scale' has no effect on values mapped to a range: leave out one of the two")
        if self.percentiles and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise UsageError(f"'percentiles' must be two increasing numbers from 0 to 100, not {self.percentiles}")
        wrong = next((pair for pair in self.ranges or () if not pair[0] < pair[1]), None)
        if wrong:
            raise UsageError(f"'value_range' must be increasing, not {wrong}")

    def gaps(self, array: np.ndarray, of_file: float | None) -> np.ndarray:
        """Return the no-data mask (height, width, bands) bool."""
        nodata = of_file if self.nodata == "file" else self.nodata
        gaps = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
        if nodata is not None and not np.isnan(nodata):
            # In the file's precision: -3.4e38 differs in 32 bits.
            gaps |= array == (array.dtype.type(nodata) if array.dtype.kind == "f" else nodata)
        return gaps

    def mapped(self, array: np.ndarray, gaps: np.ndarray, ranges: Sequence[Range] | None, path: str) -> np.ndarray:
        """Return the image, 0 in gaps."""
        if ranges is not None:
            if len(ranges) not in (1, array.shape[2]):
                raise DataError(f"{len(ranges)} ranges in 'value_range' for {array.shape[2]} bands", path)
            low, high = np.array(ranges, np.float32).T
            result = ((array.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255)
            result = np.rint(result) if self.dtype == "uint8" else result
            result[gaps] = 0
            return result.astype(self.dtype)
        if array.dtype != np.uint8 or self.scale != 1:
            array = array.astype(np.float32) * np.float32(self.scale)
        array[gaps] = 0
        return array


@lru_cache(maxsize=512)
def _found_ranges(path: str, version: tuple[int, int], bands: tuple[int, ...], values: _Values) -> list[Range]:
    """Return the percentiles of each band of a raster; of a large one from a grid of windows."""
    file = open_raster(path)
    samples = [file.read(part, bands).reshape(-1, len(bands)) for part in _parts(file.size)]
    array = np.concatenate(samples)
    return _percentiles(array, values.gaps(array, file.nodata), values)


def _percentiles(array: np.ndarray, gaps: np.ndarray, values: _Values) -> list[Range]:
    """Return the percentiles of each band of (..., bands)."""
    found = []
    for band in range(array.shape[-1]):
        there = array[..., band][~gaps[..., band]].astype(np.float32)
        low, high = np.percentile(there, values.percentiles or (0, 100)) if there.size else (0.0, 1.0)
        found.append((float(low), float(high) if high > low else float(low) + 1))
    return found


def _parts(size: tuple[int, int]) -> list[Window]:
    height, width = size
    if height * width <= _SAMPLED_PIXELS:
        return [Window(0, 0, height, width)]
    tall, wide = min(height, 512), min(width, 512)
    rows, columns = (
        np.unique(np.linspace(0, length - part, 4).astype(int)) for length, part in ((height, tall), (width, wide))
    )
    return [Window(int(top), int(left), tall, wide) for top in rows for left in columns]


@dataclass(frozen=True)
class _Grid:
    """Windows that cover a raster."""

    window: tuple[int, int]
    overlap: tuple[int, int]
    border: Literal["cut", "shift"]

    def __post_init__(self) -> None:
        if min(self.window) < 1 or not all(0 <= o < w for o, w in zip(self.overlap, self.window)):
            raise UsageError(f"'overlap' {self.overlap} must be at least 0 and less than 'window' {self.window}")

    def cut(self, size: tuple[int, int]) -> list[Window]:
        """Return the windows of a raster, row by row."""
        rows, columns = (self._along(axis, size[axis]) for axis in (0, 1))
        return [Window(top, left, height, width) for top, height in rows for left, width in columns]

    def _along(self, axis: int, length: int) -> list[tuple[int, int]]:
        """Return start and length of the windows along an axis."""
        whole, step = self.window[axis], self.window[axis] - self.overlap[axis]
        starts = range(0, max(length - self.overlap[axis], 1), step)
        if self.border == "shift":
            return [(max(min(start, length - whole), 0), min(whole, length)) for start in starts]
        return [(start, min(whole, length - start)) for start in starts]


def _chosen(paths: Sequence[str], bands: Sequence[int] | None) -> list[tuple[str, list[int]]]:
    """Return the files and their bands that make up an image, in order."""
    all_bands = [(path, band) for path in paths for band in range(open_raster(path).bands)]
    wanted = range(len(all_bands)) if bands is None else bands
    if max(wanted) >= len(all_bands):
        raise DataError(f"has {len(all_bands)} bands, but 'bands' has {max(wanted)} (counted from 0)", paths[0])
    parts: list[tuple[str, list[int]]] = []
    for path, band in (all_bands[place] for place in wanted):
        if not parts or parts[-1][0] != path:
            parts.append((path, []))
        parts[-1][1].append(band)
    return parts


def _require_resolution(path: str, size: tuple[int, int], first: str, wanted: tuple[int, int]) -> None:
    if tuple(size) != tuple(wanted):
        there, here = (f"{height} x {width}" for height, width in (size, wanted))
        hint = "resample all bands to one resolution first (gdalwarp -tr, or gdal_translate -outsize)"
        raise DataError(f"{there} pixels, but {first} has {here}\n    {hint}", path)


def _checked_bands(bands: Sequence[int] | None) -> list[int] | None:
    if bands is not None and (not bands or min(bands) < 0):
        raise UsageError(f"'bands' must be numbers from 0, not {list(bands)}")
    return None if bands is None else list(bands)


def _ranges(given: Any) -> tuple[Range, ...] | None:
    """Return one range, or one for each band."""
    if given is None:
        return None
    pairs = given if np.ndim(given[0]) else [given]
    return tuple((float(low), float(high)) for low, high in pairs)


def _pair(given: int | tuple[int, int]) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else (given[0], given[1])


def _partners(folder: Path, suffixes: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the files of the same names in another folder."""
    found = find_files(folder, (suffixes,) if isinstance(suffixes, str) else suffixes)
    require_files(names, found, f"without a raster of that name in {folder}")
    return [found[name] for name in names]
