"""Run-length encoded masks, in the four formats of annotation tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segkernel.errors import DataError
from segkernel.sample import Size
from segplug_datasets.annotations.raster import Region


def from_coco(rle: Mapping[str, Any], size: Size) -> Region:
    """Return the mask of ``{"size": [height, width], "counts": ...}``: column-wise runs, the first one of zeros.

    ``counts`` is a list of numbers, or COCO's compressed string.

    Raises:
        DataError: When it is not a mask, or its size is not the image's.
    """
    counts = rle.get("counts")
    if list(rle.get("size") or ()) != list(size):
        raise DataError(f"a mask of size {rle.get('size')} for an image of {list(size)} (height, width)")
    runs = counts_of_text(counts) if isinstance(counts, str | bytes) else _numbers(counts)
    return Region(0, 0, _mask(runs, size[0] * size[1]).reshape(size[1], size[0]).T).cropped()


def counts_of_text(text: str | bytes) -> np.ndarray:
    """Decode COCO's compressed string of run lengths.

    A character is six bits above ``0``: five of the number, lowest first, and a continuation bit; the
    highest bit of the last is the sign. From the fourth on, each is the difference from the one two before.

    Raises:
        DataError: When a character is invalid, or the last number is incomplete.
    """
    try:
        codes = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise DataError("the run lengths contain an invalid RLE character") from None
    if len(codes) and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise DataError("the run lengths contain an invalid RLE character, or end too early")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(int)[: len(ends)]
    lengths = ends - starts + 1
    if len(ends) and lengths.max() > 8:
        raise DataError("the run lengths contain a number larger than any image")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts) if len(ends) else codes
    numbers = np.where(codes[ends] & 16, numbers - (1 << 5 * lengths), numbers)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def to_coco(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) bool as COCO's ``{"size": [height, width], "counts": text}``."""
    values = np.ascontiguousarray(mask.T).ravel()
    edges = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1, [values.size]])
    counts = np.diff(edges)
    counts = np.concatenate([[0], counts]) if values.size and values[0] else counts
    return {"size": list(mask.shape), "counts": text_of_counts(counts)}


def text_of_counts(counts: np.ndarray) -> str:
    """Return run lengths as COCO's compressed string, see `counts_of_text`."""
    numbers = np.asarray(counts, np.int64).copy()
    numbers[3:] -= np.asarray(counts, np.int64)[1:-2]
    rest = numbers[:, None] >> (5 * np.arange(8))
    last = ((rest >= -16) & (rest < 16)).argmax(1)[:, None]  # the group that holds the sign
    place = np.arange(8)
    codes = (rest & 31) + np.where(place < last, 32, 0) + 48
    return codes[place <= last].astype(np.uint8).tobytes().decode("ascii")


def from_cvat(text: str, left: int, top: int, width: int, height: int, size: Size) -> Region:
    """Return the mask of CVAT: row-wise runs in a box, the first one of zeros.

    Raises:
        DataError: When the runs do not fill the box, or it is not inside the image.
    """
    if min(left, top) < 0 or width < 1 or height < 1 or top + height > size[0] or left + width > size[1]:
        raise DataError(f"a mask at ({left}, {top}) of {width} x {height} is not inside the image")
    return Region(top, left, _mask(_numbers(text.split(",")), width * height).reshape(height, width))


def from_label_studio(data: Sequence[int], size: Size) -> Region:
    """Return the mask of a Label Studio brush: opacity, the fourth of four channels, above zero.

    The bytes are a bit stream (of the library rle-pack, thi.ng): 32 bits for the number of values, 5 for their width
    minus one, and four times 4 for the widths of run lengths minus one. Each run is one bit (1 if a value is repeated),
    2 bits for the index of the width of its length, the length minus one, and the repeated value or all values.

    Raises:
        DataError: When it is not such a stream, or its size is not the image's.
    """
    values = _unpack(data)
    if len(values) != 4 * size[0] * size[1]:
        raise DataError(f"a brush mask of {len(values) // 4} pixels for an image of {list(size)} (height, width)")
    return Region(0, 0, values.reshape(*size, 4)[..., 3] > 0)


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.data, self.bits, self.place = data, np.unpackbits(np.frombuffer(data, np.uint8)), 0

    def read(self, count: int) -> int:
        """Return the next ``count`` bits, at most 32, as a number."""
        if self.place + count > len(self.bits):
            raise DataError("a brush mask ends too early")
        first, last = self.place // 8, (self.place + count + 7) // 8
        number = int.from_bytes(self.data[first:last], "big") >> (8 * last - self.place - count)
        self.place += count
        return number & ((1 << count) - 1)

    def read_many(self, count: int, width: int) -> np.ndarray:
        """Return ``count`` numbers of ``width`` bits."""
        part = self.bits[self.place : self.place + count * width]
        if len(part) < count * width:
            raise DataError("a brush mask ends too early")
        self.place += count * width
        return part.reshape(count, width) @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))


def _unpack(data: Sequence[int]) -> np.ndarray:
    try:
        stream = _Bits(bytes(data))
    except (TypeError, ValueError):
        raise DataError("a brush mask must be a list of bytes") from None
    total, width = stream.read(32), stream.read(5) + 1
    lengths = [stream.read(4) + 1 for _ in range(4)]
    if total > 1 << 30:
        raise DataError(f"a brush mask of {total // 4} pixels is larger than any image")
    values, place = np.zeros(total, np.int64), 0
    while place < total:
        repeated = stream.read(1)
        end = place + 1 + stream.read(lengths[stream.read(2)])
        values[place:end] = stream.read(width) if repeated else stream.read_many(end - place, width)[: total - place]
        place = end
    return values


def _numbers(values: Any) -> np.ndarray:
    try:
        return np.array([int(value) for value in values], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"run lengths must be whole numbers, not {str(values)[:60]}") from None


def _mask(runs: np.ndarray, pixels: int) -> np.ndarray:
    """Return ``pixels`` values of alternating runs of zeros and ones."""
    if (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise DataError(f"run lengths cover {int(runs.sum())} pixels, not {pixels}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)
