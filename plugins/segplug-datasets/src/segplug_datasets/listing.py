"""Which files belong to a data set: folders searched, lists read, names paired."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from segkernel.errors import DataError, UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_Entry = TypeVar("_Entry")


def find_files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Return name to path of the files under ``folder`` that end in one of ``suffixes``."""
    if not folder.is_dir():
        raise DataError("no such folder" if not folder.exists() else "not a folder", folder)
    found: dict[str, str] = {}
    others: set[str] = set()
    start = len(os.path.join(folder, ""))
    for path in _walk(folder):
        suffix = next((s for s in suffixes if path.lower().endswith(s.lower())), None)
        if suffix is None:
            others.add(os.path.splitext(path)[1])
            continue
        name = path[start : -len(suffix)].replace(os.sep, "/")
        if name in found:
            raise DataError(f"this and {found[name]} have one name: say which one with the suffix", path)
        found[name] = path
    if not found:
        seen = f"; it holds {', '.join(sorted(others - {''})[:5])} files" if others - {""} else ""
        raise DataError(f"no file here ends in {' or '.join(suffixes)}{seen}", folder)
    return found


def find_named(folder: Path, names: Sequence[str], what: str) -> list[str]:
    """Return the path of each file name (with suffix, and folders under ``folder``) in a list.

    Raises:
        DataError: When files are missing; the message says ``what`` lists them.
    """
    if not folder.is_dir():
        raise DataError("no such folder" if not folder.exists() else "not a folder", folder)
    places = {os.path.dirname(name) for name in names}
    # One look into each folder instead of one at each file: network file systems answer a hundred times sooner.
    there = {os.path.join(place, file) for place in places for file in _listed(folder / place)}
    require_files(names, there, f"listed in {what} but not found in {folder}")
    return [os.path.join(folder, name) for name in names]


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty.

    Raises:
        DataError: When it cannot be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"the list of names cannot be read: {error.strerror or error}", path) from error
    except UnicodeDecodeError:
        raise DataError("the list of names is no text", path) from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError("the list of names is empty", path)
    return names


def without_suffix(name: str, suffixes: Sequence[str]) -> str:
    """Return a name without the first of ``suffixes`` that it ends in."""
    return next((name[: -len(s)] for s in suffixes if name.endswith(s)), name)


def as_pairs(lines: Sequence[str], path: Path) -> list[tuple[str, str]] | None:
    """Return (image, label file) of lists with two columns, or None for a list of names.

    Columns are separated by blanks, tabs or commas; a line has two when both end like an image.

    Raises:
        DataError: When only some lines have two.
    """
    columns = [line.replace(",", " ").split() for line in lines]
    paired = [len(parts) == 2 and all(part.lower().endswith(IMAGE_SUFFIXES) for part in parts) for parts in columns]
    if not any(paired):
        return None
    if not all(paired):
        odd = paired.index(False)
        raise DataError(f"line {odd + 1} is no pair of image and label file, others are: {lines[odd]!r}", path)
    return [(first, second) for first, second in columns]


def locate(name: str, folders: Sequence[Path]) -> str | None:
    """Return the path of a listed file under the first of ``folders`` that has it; some lists write ``/`` before it."""
    places = [folder / name.lstrip("/") for folder in folders]
    return next((str(place) for place in (*places, Path(name)) if place.is_file()), None)


def take(entries: Sequence[_Entry], indices: int | Sequence[int] | None) -> list[_Entry]:
    """Return the first N entries for N, the last N for -N, those listed for a list; all for None.

    Raises:
        UsageError: When a list holds an index that does not exist.
    """
    if indices is None:
        return list(entries)
    if isinstance(indices, int):
        return list(entries[:indices] if indices >= 0 else entries[indices:])
    wrong = [index for index in indices if not -len(entries) <= index < len(entries)]
    if wrong:
        raise UsageError(f"'indices' names sample {wrong[0]}, but there are {len(entries)}")
    return [entries[index] for index in indices]


def require_files(names: Sequence[str], there: Container[str], what: str) -> None:
    """Raise a `DataError` that lists the names that are not ``there``, if any."""
    missing = [name for name in names if name not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} of {len(names)} names {what}: {shown}")


def _walk(folder: Path) -> Iterable[str]:
    for place, _, files in os.walk(folder, followlinks=True):
        yield from (os.path.join(place, file) for file in files if not file.startswith("."))


def _listed(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
