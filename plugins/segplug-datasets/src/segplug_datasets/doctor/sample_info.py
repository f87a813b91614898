"""Properties of an image and its mask: all that the checks need, small enough to send and keep.

    info = inspect_pair(Pair("a", "images/a.jpg", "masks/a.png"))

A file that cannot be read is a finding here, not an exception.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.labels import Color
from segkernel.sample import Sample
from segplug_datasets import image
from segplug_datasets.annotations.shapes import EMPTY
from segplug_datasets.headers import Header, read_header
from segplug_datasets.label_reader import ids_in_one_channel

THUMBNAIL = 17, 16
"""Width and height of the grey thumbnail for finding near-duplicates."""

MOST_COLORS = 300
"""A mask with more colours is an image, or a lossy file; only the most frequent ones are kept."""


@dataclass(frozen=True)
class Pair:
    """Files of one sample.

    Args:
        name: The sample's name.
        image: Image file.
        mask: Label file; None without one.
        index: Index of the sample in its data set, for data sets that are not plain files; None for plain files.
    """

    name: str
    image: str
    mask: str | None = None
    index: int | None = None


@dataclass
class FileInfo:
    """Properties of a file.

    Args:
        path: The file.
        error: Why it cannot be read; empty when it can.
        header: The file's header.
        size: Height and width as read.
        digest: Digest of the decoded pixels; empty if there are none.
    """

    path: str
    error: str = ""
    header: Header = field(default_factory=Header)
    size: tuple[int, int] = (0, 0)
    digest: str = ""


@dataclass
class ImageInfo(FileInfo):
    """Properties of an image.

    Args:
        asked: Whether the image was read through the data set instead of from the file.
        grey: Whether all channels are equal.
        thumbnail: `THUMBNAIL` grey bytes; empty when the image has too little contrast.
        sums: Sum of the values of each band.
        squares: Sum of the squared values of each band.
    """

    asked: bool = False
    grey: bool = False
    thumbnail: bytes = b""
    sums: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()


@dataclass
class MaskInfo(FileInfo):
    """Properties of a mask.

    Args:
        values: Pixels of each value, for a mask of numbers.
        colors: Pixels of each colour, for a colour mask.
        distinct: Number of distinct colours; `colors` holds the most frequent.
        palette: Palette colour of each value.
        classes: Whether `values` are class ids, because the mask was read through the data set.
    """

    values: dict[int, int] = field(default_factory=dict)
    colors: dict[Color, int] = field(default_factory=dict)
    distinct: int = 0
    palette: dict[int, Color] = field(default_factory=dict)
    classes: bool = False


@dataclass
class SampleInfo:
    """Properties of a sample; ``mask`` is None without one, ``error`` is why the data set could not load it.

    ``empty_objects`` are annotated, but have no pixel.
    """

    name: str
    image: ImageInfo
    mask: MaskInfo | None = None
    error: str = ""
    empty_objects: int = 0


def inspect_pair(pair: Pair) -> SampleInfo:
    """Inspect the files of a sample; problems are recorded, not raised."""
    return SampleInfo(pair.name, inspect_image(pair.image), None if pair.mask is None else inspect_mask(pair.mask))


def inspect_image(path: str) -> ImageInfo:
    """Read an image as training would, and describe it."""
    info = ImageInfo(path)
    _read_header(info)
    if info.error:
        return info
    try:
        _describe_image(info, image.read(path))
    except DataError as error:
        info.error = _plain(error)
    info.header = replace(info.header, palette=())
    return info


def inspect_mask(path: str) -> MaskInfo:
    """Read a mask as training would, and count its values."""
    info = MaskInfo(path)
    _read_header(info)
    if info.error:
        return info
    try:
        _count(info, image.read_mask(path))
    except DataError as error:
        info.error = _plain(error)
    palette = info.header.palette
    info.palette = {value: palette[value] for value in info.values if 0 <= value < len(palette)}
    info.header = replace(info.header, palette=())
    return info


def inspect_sample(pair: Pair, sample: Sample | DataError) -> SampleInfo:
    """Describe a sample of a data set, or the error it raised."""
    info = SampleInfo(pair.name, ImageInfo(pair.image, asked=True))
    if isinstance(sample, DataError):
        info.error = str(sample)
        return info
    info.image.path = str(sample.meta.get("path", pair.image))
    info.empty_objects = int(sample.meta.get(EMPTY, 0))
    if Path(info.image.path).is_file():
        _read_header(info.image)
        info.image.error = ""
    _describe_image(info.image, sample.image)
    labels = sample.get("seg")
    if labels is not None:
        info.mask = MaskInfo(str(sample.meta.get("mask_path", pair.image)), size=sample.size, classes=True)
        _count(info.mask, labels.array)
    return info


def _read_header(info: FileInfo) -> None:
    try:
        info.header = read_header(Path(info.path).read_bytes())
    except FileNotFoundError:
        info.error = "no such file"
    except OSError as error:
        info.error = f"cannot be read: {error.strerror or error}"


def _plain(error: DataError) -> str:
    """Return the message without the path, which is shown next to it, and without OpenCV's further lines."""
    return str(error).removeprefix(f"{error.path}: ").splitlines()[0]


def _describe_image(info: ImageInfo, pixels: np.ndarray) -> None:
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    info.size = pixels.shape[0], pixels.shape[1]
    info.digest = _digest(pixels)
    info.grey = pixels.shape[2] < 3 or bool((pixels[..., :1] == pixels[..., 1:3]).all())
    info.thumbnail = _thumbnail(pixels)
    info.sums, info.squares = moments(pixels)


def moments(pixels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return sum and sum of squares per band of (H, W, C): exact integers where the pixels are unsigned integers."""
    if pixels.dtype == np.uint8:
        histogram, values = _histogram(pixels), np.arange(256)
        return tuple((histogram @ values).tolist()), tuple((histogram @ values**2).tolist())
    flat = pixels.reshape(-1, pixels.shape[-1])
    wide, total = (np.uint32, np.uint64) if flat.dtype == np.uint16 else (np.float64, np.float64)
    return tuple(flat.sum(0, dtype=total).tolist()), tuple(np.square(flat.astype(wide)).sum(0, dtype=total).tolist())


_EXACT = 2**24  # OpenCV counts in float32, which is exact up to here


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels of each value, (C, 256) int64."""
    cv2, rows = opencv(), max(_EXACT // pixels.shape[1], 1)
    parts = [np.ascontiguousarray(pixels[start : start + rows]) for start in range(0, len(pixels), rows)]
    bands = range(pixels.shape[2])
    counts = [[cv2.calcHist([part], [band], None, [256], [0, 256]) for band in bands] for part in parts]
    return np.array(counts).reshape(len(parts), len(bands), 256).astype(np.int64).sum(0)


def _digest(pixels: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    digest.update(repr((pixels.shape, pixels.dtype.str)).encode())
    return digest.hexdigest()


def _thumbnail(pixels: np.ndarray) -> bytes:
    cv2 = opencv()
    channels = np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0])
    ready = channels if channels.dtype in (np.uint8, np.uint16) else channels.astype(np.float32)
    small = cv2.resize(ready, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float64)
    grey = small.mean(-1) if small.ndim == 3 else small
    if pixels.dtype != np.uint8 and grey.max() > grey.min():
        grey = (grey - grey.min()) * (255 / (grey.max() - grey.min()))
    return grey.round().astype(np.uint8).tobytes() if 2 <= grey.std() < 128 else b""


def _count(info: MaskInfo, raw: np.ndarray) -> None:
    info.size = raw.shape[0], raw.shape[1]
    info.digest = _digest(raw)
    if raw.ndim == 3 and (raw == raw[..., :1]).all():  # greys saved in colour are read as numbers
        raw = raw[..., 0]
    elif raw.ndim == 3 and raw.dtype != np.uint8 and (numbers := ids_in_one_channel(raw)) is not None:
        raw = numbers
    if raw.ndim == 2:
        info.values = dict(_counted(raw))
        return
    codes = raw.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]) if raw.max(initial=0) < 256 else _reduced(raw)
    values, counts = np.unique(codes, return_counts=True)
    info.distinct = len(values)
    for place in np.argsort(-counts, kind="stable")[:MOST_COLORS].tolist():
        value = int(values[place])
        info.colors[value >> 16, value >> 8 & 255, value & 255] = int(counts[place])


def count_as_numbers(info: MaskInfo) -> None:
    """Convert the colours of a mask without a palette to the numbers that `LabelReader` reads."""
    colors = np.array([[*info.colors]], np.uint8)
    if len(info.colors) == info.distinct > 0 and (numbers := ids_in_one_channel(colors)) is not None:
        info.values = dict(zip(numbers[0].tolist(), info.colors.values()))
        info.colors, info.distinct = {}, 0


def _counted(raw: np.ndarray) -> Mapping[int, int]:
    if raw.dtype == np.uint8:
        counts = np.bincount(raw.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(raw, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def _reduced(raw: np.ndarray) -> np.ndarray:
    """Return codes of a colour mask of 16 bits per channel, by its upper eight."""
    return (raw >> 8).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
