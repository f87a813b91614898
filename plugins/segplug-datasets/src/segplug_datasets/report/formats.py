"""Prediction files in the formats of the test servers of published data sets.

write_prediction("results", "frankfurt/frankfurt_000000_000294", ids, CITYSCAPES, "cityscapes")
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError, suggest
from segkernel.files import replacing
from segkernel.labels import IGNORE, Color, default_palette
from segplug_datasets import image
from segplug_datasets.label_files import write_labels
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.cityscapes_labels import IDS


@dataclass(frozen=True)
class Format:
    """A file format of label maps.

    Args:
        encode: Returns the file's values, (H, W) numbers or (H, W, 3) colours, from class ids (H, W) and labels.
        about: One-line description.
        folder: Subfolder for the files.
        flat: Whether folders in an image's name are dropped.
        suffix: File suffix, with the dot.
        indexed: Whether the PNG carries the palette.
    """

    encode: Callable[[np.ndarray, LabelSpec], np.ndarray]
    about: str
    folder: str = ""
    flat: bool = True
    suffix: str = ".png"
    indexed: bool = False


def _as_ids(ids: np.ndarray, labels: LabelSpec) -> np.ndarray:
    return ids


def _from_one(ids: np.ndarray, labels: LabelSpec) -> np.ndarray:
    """Return ids + 1; pixels without a class become 0."""
    return np.where(ids == IGNORE, 0, ids.astype(np.uint16) + 1)


def _as_cityscapes(ids: np.ndarray, labels: LabelSpec) -> np.ndarray:
    """Return the official ids of the classes, by name; 0 (unlabeled) for pixels without a class."""
    unknown = [name for name in labels.classes if name not in IDS]
    if unknown:
        raise UsageError(f"Cityscapes has no class {unknown[0]!r}: {suggest(unknown[0], IDS)}")
    table = np.zeros(256, np.uint8)
    table[: len(labels.classes)] = [IDS[name] for name in labels.classes]
    return table[ids]


def _as_colors(ids: np.ndarray, labels: LabelSpec) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(labels.palette)] = labels.palette
    return table[ids]


def _as_in_files(ids: np.ndarray, labels: LabelSpec) -> np.ndarray:
    return labels.decode(ids)


FORMATS = {
    "labels": Format(_as_in_files, "values of the data set's own label files", flat=False),
    "ids": Format(_as_ids, "class ids from 0", flat=False),
    "colors": Format(_as_colors, "the palette's colours", flat=False),
    "cityscapes": Format(_as_cityscapes, "Cityscapes labelIds (7 is road); all files in one folder; also for ACDC"),
    "ade20k": Format(_from_one, "ADE20K scene parsing: 1 to 150"),
    "loveda": Format(_as_ids, "LoveDA: 0 to 6"),
    "isprs": Format(_as_colors, "ISPRS Potsdam and Vaihingen: colours, NAME_class.tif", suffix="_class.tif"),
    "mapillary": Format(_as_in_files, "Mapillary Vistas: class ids of the edition"),
    "bdd100k": Format(_as_ids, "BDD100K: train ids 0 to 18"),
    "voc": Format(
        _as_in_files,
        "Pascal VOC: indexed PNG with the palette, in the folders of the archive to upload",
        folder="results/VOC2012/Segmentation/comp6_test_cls",
        indexed=True,
    ),
}
"""By name."""

OF_DATASETS = {
    "CityscapesDataset": "cityscapes",
    "ADE20KDataset": "ade20k",
    "LoveDADataset": "loveda",
    "PotsdamDataset": "isprs",
    "ISPRSDataset": "isprs",
    "MapillaryDataset_v1": "mapillary",
    "MapillaryDataset_v2": "mapillary",
    "PascalVOCDataset": "voc",
    "BDD100KDataset": "bdd100k",
}
"""Format of the test server of a data set, by the name of its class; ``labels`` for all others."""


def default_format(dataset: Any) -> str:
    """Return the name of the format for a data set."""
    return OF_DATASETS.get(type(dataset).__name__, "labels")


def find_format(name: str) -> Format:
    """Return the format called ``name``.

    Raises:
        UsageError: When there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no format is called {name!r}: {suggest(name, FORMATS)}")
    return FORMATS[name]


def write_prediction(folder: str | Path, name: str, ids: np.ndarray, labels: LabelSpec, format: str = "labels") -> Path:
    """Write one label map and return its path.

    Args:
        folder: Folder of the results; created if missing.
        name: The image's name without suffix; may contain folders.
        ids: (H, W) class ids.
        labels: Label specification of the ids.
        format: Key of `FORMATS`.

    Raises:
        UsageError: When the format does not exist, or does not support the classes.
        DataError: When the image has no name, or the file cannot be written.
    """
    chosen = find_format(format)
    if not name:
        raise DataError("the prediction has no image name: its meta needs a 'name'")
    place = Path(name).name if chosen.flat else name
    path = Path(folder) / chosen.folder / f"{place}{chosen.suffix}"
    values = chosen.encode(ids, labels)
    if chosen.indexed:
        _write_indexed(path, values, labels.palette)
    elif values.ndim == 3:
        image.write(path, values)
    else:
        image.write_mask(path, values)
    return path


def write_classes(folder: str | Path, name: str, maps: np.ndarray, labels: LabelSpec) -> None:
    """Write binary masks (K, H, W) as ``folder/CLASS/NAME.png``.

    Raises:
        DataError: When the image has no name, or a file cannot be written.
    """
    if not name:
        raise DataError("the prediction has no image name: its meta needs a 'name'")
    write_labels(folder, name, maps, labels.classes)


def value_table(labels: LabelSpec, format: str = "labels") -> list[tuple[str, str]]:
    """Return class names and their values in the files, as text."""
    ids = np.arange(len(labels.classes), dtype=np.uint8)[None]
    values = find_format(format).encode(ids, labels)[0]
    texts = ["#" + bytes(value).hex() if values.ndim == 2 else str(value) for value in values]
    return list(zip(labels.classes, texts))


def _write_indexed(path: Path, values: np.ndarray, palette: tuple[Color, ...]) -> None:
    """Write an 8-bit PNG with a palette, which OpenCV cannot."""
    colors = np.array([*palette, *((0, 0, 0), *default_palette(255))[len(palette) :]], np.uint8)
    height, width = values.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), values.astype(np.uint8)], 1)  # no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", header), (b"PLTE", colors.tobytes()), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
