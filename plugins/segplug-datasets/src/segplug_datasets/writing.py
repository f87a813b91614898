"""Atomic writing of output files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segkernel.errors import DataError
from segkernel.files import replacing


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` at the end; missing folders are created.

    Raises:
        DataError: When it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", path) from error
