"""Samples as blocks of bytes, whose arrays are read without copying or decoding.

A block is the memory of the arrays, each aligned to 64 bytes, then a JSON record (offset, shape and dtype of each
array, classes of the fields, ``meta``), then the record's length in 8 bytes.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import mmap
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.sample import Field, Sample

_ALIGNED = 64
_LENGTH = 8
_MAPS_AT_ONCE = 256  # each uses a file handle, which are limited


def encode(sample: Sample, note: Any = None) -> list[bytes]:
    """Return the parts of a block, to be written in sequence; ``note`` is for `read_note`.

    Raises:
        UsageError: When ``meta`` or a field has values other than numbers, strings, arrays and lists of them, or the
            sample has device steps.
    """
    if sample.device_steps:
        raise UsageError("a sample with pending device steps cannot be packed")
    writer = _Writer()
    record = {
        "image": writer.page(sample.image),
        "moved": sample.moved,
        "original_size": sample.original_size,
        "fields": {name: _encode_field(name, field, writer) for name, field in sample.fields.items()},
        "meta": writer.value(sample.meta),
        "note": note,
    }
    text = json.dumps(record, separators=(",", ":")).encode()
    return [*writer.parts, text, len(text).to_bytes(_LENGTH, "little")]


def decode(block: Any) -> Sample:
    """Return the sample of a block; its arrays are views into it, writable if the buffer is.

    Raises:
        DataError: When the block is invalid or damaged.
    """
    try:
        record = _record(block)
        fields = {name: _decode_field(entry, block) for name, entry in record["fields"].items()}
        size = record.get("original_size")  # blocks of older versions have none
        sample = Sample(fields, _value(record["meta"], block), _array(record["image"], block), record["moved"])
        sample.original_size = None if size is None else (size[0], size[1])
        return sample
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ImportError) as error:
        raise DataError(f"damaged sample: {error}") from error


def read_note(block: Any) -> Any:
    """Return the ``note`` of a block; None when it is damaged."""
    try:
        return _record(block)["note"]
    except (ValueError, KeyError, TypeError):
        return None


def map_block(path: str | Path, offset: int = 0, length: int | None = None) -> Any:
    """Return bytes of a file as a private, copy-on-write map.

    Raises:
        OSError: When the file is missing or cannot be read.
        ValueError: When the file is too short.
    """
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with open(path, "rb") as file:
        size = 0 if length is None else offset - start + length
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY, offset=start)
    block = memoryview(mapped)[offset - start :]
    if len(_maps) >= _MAPS_AT_ONCE:
        return bytearray(block)
    _maps.add(mapped)
    return block


_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def _record(block: Any) -> dict[str, Any]:
    end = len(block) - _LENGTH
    length = int.from_bytes(block[max(end, 0) :], "little")
    record: dict[str, Any] = json.loads(bytes(block[max(end - length, 0) : max(end, 0)]))
    return record


class _Writer:
    """Collects arrays and their offsets in the block."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._size = 0

    def page(self, array: np.ndarray) -> list[Any]:
        """Add an array; return its offset, dtype and shape."""
        if array.dtype.hasobject:
            raise UsageError(f"an array of {array.dtype} cannot be packed: only numbers and strings can")
        gap = -self._size % _ALIGNED
        page = [self._size + gap, array.dtype.str, list(array.shape)]
        self.parts += [bytes(gap), array.tobytes()]
        self._size += gap + array.nbytes
        return page

    def value(self, value: Any) -> Any:
        """Return a value for JSON; other types become a mapping of their type to their content."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, list):
            return [self.value(entry) for entry in value]
        if isinstance(value, tuple):
            return {"tuple": [self.value(entry) for entry in value]}
        if isinstance(value, dict):
            return {"dict": [[self.value(key), self.value(entry)] for key, entry in value.items()]}
        if isinstance(value, (np.ndarray, np.generic)):
            return {"scalar" if isinstance(value, np.generic) else "array": self.page(np.asarray(value))}
        if isinstance(value, Path):
            return {"path": str(value)}
        raise UsageError(f"a {type(value).__name__} cannot be packed: numbers, strings, arrays and lists of them can")


def _value(value: Any, block: Any) -> Any:
    if isinstance(value, list):
        return [_value(entry, block) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tuple":
        return tuple(_value(entry, block) for entry in content)
    if kind == "dict":
        return {_value(key, block): _value(entry, block) for key, entry in content}
    if kind == "path":
        return Path(content)
    array = _array(content, block)
    return array[()] if kind == "scalar" else array


def _array(page: list[Any], block: Any) -> np.ndarray:
    offset, dtype, shape = page
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.empty(shape, dtype)
    return np.frombuffer(block, dtype, count, offset).reshape(shape)


def _encode_field(name: str, field: Any, writer: _Writer) -> list[Any]:
    kind = f"{type(field).__module__}:{type(field).__qualname__}"
    if not isinstance(field, Field) or "<locals>" in kind:
        raise UsageError(f"field {name!r} is a {kind}, which cannot be packed: a Field of an importable module can")
    others = {part.name: getattr(field, part.name) for part in dataclasses.fields(field) if part.name != "array"}
    return [kind, writer.page(field.array), writer.value(others)]


def _decode_field(entry: list[Any], block: Any) -> Field:
    kind, page, others = entry
    return _kind(kind)(array=_array(page, block), **_value(others, block))


@cache
def _kind(name: str) -> type[Field]:
    module, _, qualified = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Field)):
        raise TypeError(f"{name} is not a Field class")
    return found
