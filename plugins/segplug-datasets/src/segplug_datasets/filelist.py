"""A list of file names that worker processes share instead of copying."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

Files = tuple[str, str, str | None]


class FileList(Sequence[Files]):
    """(name, image, label file or None) of each sample, in one block of memory.

    Accessing a string in a list updates its reference count, so every forked worker ends up copying the list, and a
    spawned worker unpickles the strings one by one. A single block of bytes avoids both.

    Args:
        files: The samples.
    """

    def __init__(self, files: Sequence[Files]) -> None:
        parts = [_encoded(part) for file in files for part in file]
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        self._block = b"".join(parts)

    def __len__(self) -> int:
        return len(self._ends) // 3

    @overload
    def __getitem__(self, index: int) -> Files: ...

    @overload
    def __getitem__(self, index: slice) -> list[Files]: ...

    def __getitem__(self, index: int | slice) -> Files | list[Files]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self[place] for place in places]
        start = int(self._ends[3 * places - 1]) if places else 0
        name, image, mask = (int(end) for end in self._ends[3 * places : 3 * places + 3])
        return (
            self._decoded(start, name) or "",
            self._decoded(name, image) or "",
            self._decoded(image, mask),
        )

    def _decoded(self, start: int, end: int) -> str | None:
        part = self._block[start:end]
        return None if part == _NOTHING else part.decode("utf-8", "surrogateescape")


_NOTHING = b"\0"  # in no file name


def _encoded(part: str | None) -> bytes:
    return _NOTHING if part is None else str(part).encode("utf-8", "surrogateescape")
