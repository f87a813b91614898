"""Index of the classes in a data set's label maps: counted once, in parallel, and stored next to the data.

index = class_index(dataset)
index.pixels[7, 3]                  # pixels of class 3 in sample 7
holds(index.cells[7], 3)            # (8, 8) bool: cells of the image in which class 3 occurs
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.files import cache_folder, replacing
from segkernel.image import opencv
from segkernel.interfaces.data import Dataset
from segkernel.sample import MultiLabelMap
from segplug_datasets.packed import PackedDataset
from segplug_datasets.parallel import run_in_processes

log = logging.getLogger(__name__)

GRID = 8
"""Cells an image is divided into, along each side."""

_AT_ONCE = 16  # samples of one job
_VERSION = 1  # of the file


@dataclass(frozen=True)
class ClassIndex:
    """The classes of N samples.

    Args:
        pixels: (N, K) uint32: pixels of each class.
        sizes: (N, 2) int32: height and width; 0 where a sample could not be read.
        cells: (N, GRID, GRID, ceil(K / 8)) uint8: one bit for each class, set where it occurs in that cell.
    """

    pixels: np.ndarray
    sizes: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, indices: np.ndarray) -> ClassIndex:
        """Return the index of the samples ``indices``, in this order."""
        return ClassIndex(self.pixels[indices], self.sizes[indices], self.cells[indices])

    def mapped(self, table: np.ndarray, classes: int) -> ClassIndex:
        """Return the index after class i became ``table[i]``, below ``classes``; others are left out."""
        pixels = np.zeros((len(self), classes), np.uint32)
        found = np.zeros((*self.cells.shape[:3], classes), bool)
        for old in range(self.pixels.shape[1]):
            new = int(table[old])
            if new < classes:
                pixels[:, new] += self.pixels[:, old]
                found[..., new] |= holds(self.cells, old)
        return ClassIndex(pixels, self.sizes, np.packbits(found, axis=-1))


def holds(cells: np.ndarray, class_id: int) -> np.ndarray:
    """Return the cells in which a class occurs, (..., GRID, GRID) bool, from packed cells (..., GRID, GRID, bytes)."""
    return (cells[..., class_id // 8] >> (7 - class_id % 8) & 1).astype(bool)


def class_index(dataset: Dataset, cache: str | Path | None = None, workers: int | None = None) -> ClassIndex:
    """Return the `ClassIndex` of a data set.

    It is read from ``.class-index-KEY.npz``, KEY being a checksum of the file list, the classes and the label
    specification; when it does not exist, every sample is read once and the file written. Data sets without files are
    counted each time. Wrappers implement ``class_index(cache, workers)``.

    Args:
        dataset: Data set with label maps in the field ``seg``.
        cache: Folder of the file; None is the data set's ``data_root``, or the user's cache folder if that is not
            writable.
        workers: Processes that read; None uses up to eight, and 0 for a small set.

    Raises:
        DataError: When a sample has no label map, or none can be read.
    """
    own = getattr(dataset, "class_index", None)
    if own is not None:
        return own(cache, workers)
    if parts := getattr(dataset, "datasets", None):
        parts = [class_index(part, cache, workers) for part in parts]
        return ClassIndex(*(np.concatenate(arrays) for arrays in zip(*(_arrays(part) for part in parts))))
    key = _checksum(dataset)
    folders = _folders(dataset, cache) if key else []
    for path in (folder / f".class-index-{key}.npz" for folder in folders):
        if (found := _load(path, len(dataset), len(dataset.classes))) is not None:
            return found
    index = _count_all(dataset, workers)
    _keep(index, [folder / f".class-index-{key}.npz" for folder in folders])
    return index


def _arrays(index: ClassIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return index.pixels, index.sizes, index.cells


# ---------------------------------------------------------------- counting


def _count_all(dataset: Dataset, workers: int | None) -> ClassIndex:
    count = len(dataset)
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if count > 4 * _AT_ONCE else 0
    classes = len(dataset.classes)
    pixels, sizes = np.zeros((count, classes), np.uint32), np.zeros((count, 2), np.int32)
    cells = np.zeros((count, GRID, GRID, -(-classes // 8)), np.uint8)
    jobs = [range(start, min(start + _AT_ONCE, count)) for start in range(0, count, _AT_ONCE)]
    log.info("counting the classes of %d images, once", count)
    unread: list[str] = []
    for job, rows, failed in run_in_processes(_count, dataset, jobs, workers):
        place = slice(job.start, job.stop)
        pixels[place], sizes[place], cells[place] = rows
        unread += failed
    if unread:
        log.warning("%d of %d samples cannot be read, the first: %s", len(unread), count, unread[0])
    if len(unread) == count:
        raise DataError(f"no sample can be read: {unread[0]}" if unread else "the data set is empty")
    return ClassIndex(pixels, sizes, cells)


def _count(dataset: Dataset, job: range) -> tuple[range, tuple[np.ndarray, np.ndarray, np.ndarray], list[str]]:
    """Return the rows of some samples, and the errors of unreadable ones."""
    classes = len(dataset.classes)
    counts, sizes = np.zeros((len(job), GRID, GRID, classes), np.uint32), np.zeros((len(job), 2), np.int32)
    failed = []
    for row, index in enumerate(job):
        try:
            sample = dataset[index]
        except (DataError, OSError) as error:
            failed.append(str(error))
            continue
        if isinstance(sample.get("seg"), MultiLabelMap):
            message = "classes of multilabel masks cannot be counted: each pixel needs one class"
            raise DataError(message, sample.meta.get("path"))
        if "seg" not in sample:
            raise DataError("the sample has no label map", sample.meta.get("path"))
        sizes[row] = sample.size
        counts[row] = count_in_cells(sample["seg"].array, classes)
    cells = np.packbits(counts > 0, axis=-1)
    return job, (counts.sum((1, 2), dtype=np.uint32), sizes, cells), failed


def count_in_cells(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return (GRID, GRID, classes) uint32, the pixels of each class in each cell of a label map (H, W) uint8."""
    rows, columns = (cell_edges(length) for length in labels.shape)
    counts = np.zeros((GRID, GRID, classes), np.uint32)
    histogram = opencv().calcHist
    for row in range(GRID):
        for column in range(GRID):
            cell = labels[rows[row] : rows[row + 1], columns[column] : columns[column + 1]]
            if cell.size:
                counts[row, column] = histogram([cell], [0], None, [256], [0, 256]).ravel()[:classes]
    return counts


def cell_edges(length: int) -> np.ndarray:
    """Return the GRID + 1 edges of the cells that ``length`` pixels are divided into."""
    return np.arange(GRID + 1) * length // GRID


# ---------------------------------------------------------------- storing


def _checksum(dataset: Any) -> str:
    """Return a checksum of a data set's files, classes and label values; empty without files."""
    files: Sequence[Any] | None = getattr(dataset, "files", None)
    if isinstance(dataset, PackedDataset):
        files = [Path(dataset.path, "pack.json").read_bytes()]
    if files is None:
        return ""
    meaning = getattr(dataset, "labels", None) or tuple(dataset.classes)
    digest = hashlib.sha256(repr((_VERSION, GRID, type(dataset).__name__, meaning)).encode())
    for file in files:
        digest.update(repr(file).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


def _folders(dataset: Any, cache: str | Path | None) -> list[Path]:
    if cache is not None:
        return [Path(cache)]
    root = getattr(dataset, "data_root", None)
    return [*([Path(root)] if root else []), cache_folder() / "class-index"]


def _load(path: Path, count: int, classes: int) -> ClassIndex | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            index = ClassIndex(arrays["pixels"], arrays["sizes"], arrays["cells"])
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception as error:  # a damaged archive may raise anything
        log.warning("%s is damaged; rebuilding it: %s", path, error)
        return None
    return index if index.pixels.shape == (count, classes) else None


def _keep(index: ClassIndex, paths: Sequence[Path]) -> None:
    """Write the file to the first writable place."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, pixels=index.pixels, sizes=index.sizes, cells=index.cells)
        except OSError:
            continue
        return
