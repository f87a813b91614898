"""Objects and files that readers skip: logged once, and shown by ``data check`` with the reason."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

log = logging.getLogger("segkernel.data_files")  # below the kernel's logger, so that it reaches the run's log file

_logged: set[str] = set()


@dataclass(frozen=True)
class LeftOut:
    """Objects or files that a data set skips, of one kind.

    Args:
        kind: Short, constant identifier: ``crowds``.
        count: Number of objects or files.
        what: Description that follows ``count`` in a message.
        why: The consequence, and what to do.
        is_usual: Whether most files of this format have some.
    """

    kind: str
    count: int
    what: str
    why: str
    is_usual: bool = False

    def __str__(self) -> str:
        return f"{self.count} {self.what}. {self.why}"


def report_left_out(path: object, left_out: Iterable[LeftOut]) -> None:
    """Log what a data set skips in a file or folder; once per process."""
    for part in left_out:
        warn_once(f"{path}, {part.kind}", f"{path}: {part}")


def warn_once(key: str, message: str) -> None:
    """Log a warning unless this process has logged one with the same key."""
    if key not in _logged:
        _logged.add(key)
        log.warning(message)
