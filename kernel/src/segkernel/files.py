"""Files that are there whole or not at all, and where files may be kept."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath


def cache_folder() -> Path:
    """Return where downloads and indices are kept: ``SEGKERNEL_CACHE``, else ``segkernel`` in the user's cache."""
    own = os.environ.get("SEGKERNEL_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segkernel"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what is written there takes its place at the end, or goes on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """Return a text from a file or a config, a class for example, as the name of one file or folder."""
    return str(relative_path(re.sub(r"[\\/]", "_", text)))


def relative_path(name: str) -> PurePath:
    """Return a name, which may hold folders, as a path that stays below the folder it is put into on any system."""
    parts = [re.sub(r'[<>:"|?*\x00-\x1f]', "_", part) for part in re.split(r"[\\/]", name)]
    return PurePath(*[part for part in parts if part.strip(".")] or ["_"])
