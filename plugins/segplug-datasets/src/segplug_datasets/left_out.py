"""What a reader leaves out of the files it reads: said once, and shown by ``data check`` with its cause."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

log = logging.getLogger("segkernel.data_files")  # below the kernel's logger, so that the run's log file has it too

_said: set[str] = set()


@dataclass(frozen=True)
class LeftOut:
    """Objects or files of which a data set makes nothing.

    Args:
        kind: A short name that stays the same: ``crowds``.
        count: How many.
        what: What they are, for a line that begins with their number.
        why: What follows from it, and what to do.
        is_usual: Whether files of this kind mostly have some.
    """

    kind: str
    count: int
    what: str
    why: str
    is_usual: bool = False

    def __str__(self) -> str:
        return f"{self.count} {self.what}. {self.why}"


def say(path: object, left_out: Iterable[LeftOut]) -> None:
    """Log what a data set leaves out of a file or folder; once in a process."""
    for part in left_out:
        say_once(f"{path}, {part.kind}", f"{path}: {part}")


def say_once(key: str, message: str) -> None:
    """Log a warning unless there was one of this key in this process."""
    if key not in _said:
        _said.add(key)
        log.warning(message)
