"""Additional fields read from files: label maps of other heads, weights, depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.sample import LabelMap, RasterField, Sample
from segplug_datasets import image
from segplug_datasets.label_reader import LabelReader, require_size
from segplug_datasets.listing import find_files, require_files

Read = Callable[[Sample, str], RasterField]


class FieldFiles:
    """An additional field of each sample, from a folder of files with the images' names.

    Args:
        field: Name of the field.
        folder: Folder of the files.
        suffix: Suffix of the file names.
        names: Sample names.
        read: Returns the field from a sample and the path of its file; must be picklable.

    Raises:
        DataError: When the folder, or a file, is missing.
    """

    def __init__(self, field: str, folder: Path, suffix: str, names: Sequence[str], read: Read) -> None:
        found = find_files(folder, (suffix,))
        require_files(names, found, f"without a file NAME{suffix} for {field!r} in {folder}")
        self.field, self.read = field, read
        self.paths = [found[name] for name in names]

    def add(self, sample: Sample, index: int) -> None:
        """Read the field of sample ``index``."""
        sample[self.field] = self.read(sample, self.paths[index])


class ReadLabels:
    """Reads label maps."""

    def __init__(self, reader: LabelReader) -> None:
        self.reader = reader

    def __call__(self, sample: Sample, path: str) -> RasterField:
        return LabelMap(self.reader.read(sample, path))


class ReadNumbers:
    """Reads a number per pixel: ``scale`` times an image's values, or a ``.npy`` array unscaled.

    Args:
        kind: Class of the field.
        scale: Factor on the values of image files.
    """

    def __init__(self, kind: type[RasterField], scale: float) -> None:
        self.kind, self.scale = kind, scale

    def __call__(self, sample: Sample, path: str) -> RasterField:
        if path.endswith(".npy"):
            return self.kind(_finite(_load(sample, path), path))
        raw = image.read_numbers(path)
        require_size(sample, raw, path)
        if raw.ndim != 2:
            raise DataError(f"expected one number per pixel, this file has shape {raw.shape}", path)
        return self.kind(_finite(raw.astype(np.float32) * np.float32(self.scale), path))


def by_field(folders: str | Path | Mapping[str, Any] | None, field: str) -> dict[str, Any]:
    """Return folders by field name; a single one belongs to ``field``."""
    if folders is None:
        return {}
    return dict(folders) if isinstance(folders, Mapping) else {field: folders}


def _load(sample: Sample, path: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read as an array of numbers: {error}", path) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(f"expected one number per pixel, this array is {array.dtype} {array.shape}", path)
    require_size(sample, array, path)
    return array.astype(np.float32)


def _finite(array: np.ndarray, path: str) -> np.ndarray:
    if not np.isfinite(array).all() or (array < 0).any():
        raise DataError("weights and depths must be finite and at least 0", path)
    return array
