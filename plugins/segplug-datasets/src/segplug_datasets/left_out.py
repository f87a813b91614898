"""What a reader skips in the files it reads: logged once, and shown by ``data check`` with its cause."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

log = logging.getLogger("segkernel.data_files")  # below the kernel's logger, so that the run's log file has it too

_logged: set[str] = set()


@dataclass(frozen=True)
class LeftOut:
    """Objects or files that a data set skips.

    Args:
        kind: A short name that stays the same: ``crowds``.
        count: Number of them.
        what: What they are; completes a line that begins with ``count``.
        why: The consequence, and what to do.
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
    """Log what a data set skips in a file or folder; once per process."""
    for part in left_out:
        say_once(f"{path}, {part.kind}", f"{path}: {part}")


def say_once(key: str, message: str) -> None:
    """Log a warning unless there was one of this key in this process."""
    if key not in _logged:
        _logged.add(key)
        log.warning(message)
