"""Index of the records in a large file, which is scanned when a data set is opened; samples read their records only.

Data sets are copied to every worker; the index takes twelve bytes per record instead of the content.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segkernel.errors import DataError

_BLANKS = re.compile(r"[ \t\r\n]*")
_MARK = "\u00ef\u00bb\u00bf"  # a byte order mark, read as Latin-1


class Records:
    """Parts of a file, read on demand.

    Args:
        path: The file.
        starts: Offset of each in bytes.
        lengths: Length of each in bytes.
    """

    def __init__(self, path: Path, starts: Sequence[int], lengths: Sequence[int]) -> None:
        self.path = str(path)
        self._starts, self._lengths = np.array(starts, np.int64), np.array(lengths, np.int32)
        self._size = os.path.getsize(path)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, numbers: Iterable[int]) -> list[bytes]:
        """Return some of the parts.

        Raises:
            DataError: When the file is missing, or its size has changed since it was opened.
        """
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size != self._size:
                    raise DataError("the file has changed since the data set was opened", self.path)
                return [self._part(file, number) for number in numbers]
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", self.path) from error

    def load(self, numbers: Iterable[int]) -> list[Any]:
        """Return some of the parts, which are JSON.

        Raises:
            DataError: As `read`.
        """
        try:
            return [json.loads(part) for part in self.read(numbers)]
        except ValueError:
            raise DataError("the file has changed since the data set was opened", self.path) from None

    def _part(self, file: Any, number: int) -> bytes:
        file.seek(int(self._starts[number]))
        return file.read(int(self._lengths[number]))


@contextmanager
def as_data_error(path: object) -> Iterator[None]:
    """Turn errors from malformed files in this block into a `DataError`."""
    try:
        yield
    except (KeyError, IndexError) as error:
        raise DataError(f"a required entry is missing: {error}", str(path)) from error
    except (TypeError, ValueError, AttributeError, OverflowError, LookupError) as error:
        raise DataError(f"does not follow the format: {error}", str(path)) from error


Keep = Callable[[Any], Any]
"""Returns what is kept of a record in memory."""


def scan_object(path: Path, arrays: Mapping[str, Keep]) -> dict[str, tuple[Records, list[Any]]]:
    """Return the records of some arrays of the JSON object in a file, and what is kept of each; empty where missing.

    Raises:
        DataError: When it cannot be read, or is not a JSON object.
    """
    scan = _Scan(path)
    found: dict[str, tuple[Records, list[Any]]] = {}
    scan.expect("{", "JSON object")
    while not scan.ends("}"):
        key = decode_texts(scan.value()[2])
        if not isinstance(key, str):
            raise DataError(f"damaged JSON: {str(key)[:40]} where a name is expected", path)
        scan.expect(":", "JSON object")
        if key in arrays and scan.next() == "[":
            found[key] = scan.array(arrays[key])
        else:
            scan.value()
    return {name: found.get(name) or (Records(path, [], []), []) for name in arrays}


def scan_array(path: Path, keep: Keep) -> tuple[Records, list[Any]]:
    """Return the records of the JSON array in a file, and what is kept of each.

    Raises:
        DataError: As `scan_object`.
    """
    return _Scan(path).array(keep)


class _Scan:
    """Scans a JSON text value by value.

    Bytes are decoded as Latin-1, in which JSON's syntax is the same, so that offsets in the text are offsets in the
    file; strings in kept values are decoded again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_bytes().decode("latin-1")
            if self.text[:2] in ("\xff\xfe", "\xfe\xff"):
                raise DataError("the annotations are UTF-16: save them as UTF-8", path)
        except OSError as error:
            raise DataError(f"the annotations cannot be read: {error.strerror or error}", path) from error
        self.place = len(_MARK) if self.text.startswith(_MARK) else 0
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """Return the next non-whitespace character, without consuming it."""
        match = _BLANKS.match(self.text, self.place)
        self.place = match.end() if match else self.place
        return self.text[self.place : self.place + 1]

    def expect(self, sign: str, what: str) -> None:
        if self.next() != sign:
            raise DataError(f"not a valid {what}: expected {sign!r} at character {self.place}", self.path)
        self.place += 1

    def ends(self, sign: str) -> bool:
        """Consume a comma, or the closing ``sign`` and return True."""
        if self.next() == ",":
            self.place += 1
        if self.next() != sign:
            return False
        self.place += 1
        return True

    def value(self) -> tuple[int, int, Any]:
        """Consume a value; return its start, end and content."""
        self.next()
        start = self.place
        try:
            value, self.place = self._decode(self.text, start)
        except (ValueError, RecursionError) as error:
            line = self.text.count("\n", 0, start) + 1
            raise DataError(f"damaged JSON in or after line {line}: {error}", self.path) from None
        return start, self.place, value

    def array(self, keep: Keep) -> tuple[Records, list[Any]]:
        self.expect("[", "JSON array")
        starts, lengths, kept = [], [], []
        while not self.ends("]"):
            start, end, value = self.value()
            starts.append(start)
            lengths.append(end - start)
            try:
                kept.append(keep(value))
            except KeyError as error:
                raise DataError(f"a record lacks {error}: {self.text[start : start + 80]}", self.path) from None
            except (TypeError, AttributeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"a record cannot be used, {error}: {self.text[start : start + 80]}", self.path
                ) from None
        return Records(self.path, starts, lengths), kept


def decode_texts(value: Any) -> Any:
    """Return a kept value with its strings, read as Latin-1, decoded as UTF-8."""
    if isinstance(value, Mapping):
        return {decode_texts(key): decode_texts(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(decode_texts(entry) for entry in value)
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:  # had an escape such as \u4e00: already decoded
        return value
