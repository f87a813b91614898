"""Atomic writing, safe file names, and the cache folder."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath


def cache_folder() -> Path:
    """Return the folder of downloads and indices: ``SEGKERNEL_CACHE``, else ``segkernel`` in the user's cache."""
    own = os.environ.get("SEGKERNEL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segkernel"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name next to ``path``; it replaces ``path`` at the end, and is deleted on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """Return a string from a file or a config, such as a class name, as a valid name of one file or folder."""
    return str(relative_path(re.sub(r"[\\/]", "_", text)))


def relative_path(name: str) -> PurePath:
    """Return a name, which may contain folders, as a relative path that cannot leave its folder on any system."""
    parts = [re.sub(r'[<>:"|?*\x00-\x1f]', "_", part) for part in re.split(r"[\\/]", name)]
    return PurePath(*[part for part in parts if part.strip(".")] or ["_"])
