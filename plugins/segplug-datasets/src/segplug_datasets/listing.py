"""The files of a data set: searching folders, reading lists and texts, matching names written on other systems.

Everything that reads names uses this module. Names are compared in Unicode NFC, suffixes case-insensitively; hidden
and system files and folders are skipped, links back to a parent folder are not followed.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from segkernel.errors import DataError, UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")
_LISTED = (*MASK_SUFFIXES, ".npy", ".jp2", ".ppm", ".pgm")

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information"})
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_COLUMN_MARKS = "\t;,"
_HEADER = re.compile(
    r"|index|unnamed: ?\d+|split|width|height"
    r"|(images?|img|masks?|labels?|seg|segmentation|annotations?|files?|samples?|ids?|names?|paths?)"
    r"([ _-]?(ids?|names?|paths?|files?|images?|masks?|maps?|labels?))*",
    re.IGNORECASE,
)

_Entry = TypeVar("_Entry")


# ---------------------------------------------------------------- folders


def resolve(root: str | Path | None, path: str | Path = "") -> Path:
    """Return a path under a root, with ``~`` as the home folder and, where only that exists, ``\\`` as ``/``.

    Raises:
        UsageError: When it is not a path.
    """
    if not isinstance(path, str | Path):
        raise UsageError(f"expected the path of a folder, or of a text file that lists files, not {str(path)[:60]}")
    place = _at_home(root or "") / _at_home(path)
    turned = Path(str(place).replace("\\", "/"))
    return turned if not place.exists() and turned.exists() else place


def walk(folder: Path) -> Iterator[str]:
    """Yield the files under a folder, sorted by name.

    Raises:
        DataError: When it, or a folder in it, cannot be read.
    """
    yield from _walk(str(folder), frozenset())


def named_files(place: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of the files under a folder; the name is empty for other suffixes than ``suffixes``.

    The name is the path inside the folder, without the suffix. For a text file it is the path inside the common
    folder of all listed files.
    """
    paths = list(walk(place)) if place.is_dir() else _listed_files(place)
    start = len(os.path.join(place if place.is_dir() else _common_folder(paths), ""))
    for path in paths:
        suffix = next((s for s in suffixes if path.lower().endswith(s.lower())), None)
        yield "" if suffix is None else _composed(path[start : -len(suffix)]).replace(os.sep, "/"), path


def find_files(place: Path, suffixes: Sequence[str], others_than: Container[str] = ()) -> dict[str, str]:
    """Return a mapping of name to path of the files under a folder, or in a list, with one of ``suffixes``.

    Args:
        place: The folder, or the text file.
        suffixes: Suffixes of file names.
        others_than: Paths of files to skip.

    Raises:
        DataError: When the folder does not exist, no file has a suffix, or two have the same name.
    """
    if not place.exists():
        raise DataError("no such folder", place)
    found: dict[str, str] = {}
    others: set[str] = set()
    for name, path in named_files(place, suffixes):
        if path in others_than:
            continue
        if not name:
            others.add(os.path.splitext(path)[1])
        elif name in found:
            raise DataError(f"this and {found[name]} have the same name: choose one by its suffix", path)
        else:
            found[name] = path
    if not found:
        seen = f"; it contains {', '.join(sorted(others - {''})[:5])} files" if others - {""} else ""
        raise DataError(f"no file here ends in {' or '.join(suffixes)}{seen}", place)
    return found


class NamedFiles:
    """The files under a folder, looked up by names written by other programs and systems.

    Lists each folder once instead of checking each file: a hundred times faster on network file systems.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folders: dict[str, dict[str, str]] = {}
        self._by_file_name: dict[str, list[str]] | None = None

    def find(self, name: str) -> str | None:
        """Return the path of a file; None if it does not exist.

        If the name begins with this folder, or with a folder of another machine, the rest is looked up.
        """
        name = clean(name)
        return next(filter(None, map(self._exact, (name.lstrip("/"), *tails(name, self.folder)))), None)

    def find_deeper(self, name: str) -> str | None:
        """Return the path of a file in this folder or any folder below.

        Raises:
            DataError: When several folders have a file of the name.
        """
        found = self.find(name)
        if found or "/" in clean(name):
            return found
        if self._by_file_name is None:
            self._by_file_name = {}
            for path in walk(self.folder):
                self._by_file_name.setdefault(_folded(os.path.basename(path)), []).append(path)
        several = self._by_file_name.get(_folded(clean(name)), [])
        if len(several) > 1:
            raise DataError(f"{name} may be {' or '.join(several[:3])}: choose one of these folders", self.folder)
        return several[0] if several else None

    def _exact(self, name: str) -> str | None:
        place, _, file = name.rpartition("/")
        if place not in self._folders:
            folder = os.path.join(self.folder, place)
            there = os.listdir(folder) if os.path.isdir(folder) else []
            self._folders[place] = {_folded(entry): entry for entry in there}
        entry = self._folders[place].get(_folded(file))
        return None if entry is None else os.path.join(self.folder, place, entry)


def find_named(folder: Path, names: Sequence[str], what: str) -> list[str]:
    """Return the paths of listed file names (with suffix, and folders under ``folder``).

    Raises:
        DataError: When files are missing; the message names the list, ``what``.
    """
    if not folder.is_dir():
        raise DataError("no such folder" if not folder.exists() else "not a folder", folder)
    files = NamedFiles(folder)
    found = {name: path for name in dict.fromkeys(names) if (path := files.find_deeper(name))}
    require_files(names, found, f"listed in {what} but not found in {folder}")
    return [found[name] for name in names]


# ---------------------------------------------------------------- texts and lists


def read_text(path: Path, what: str = "the file") -> str:
    """Read a text in UTF-8, or in UTF-16 as some Windows programs write it, without byte-order mark.

    Raises:
        DataError: When it cannot be read, or is not text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror or error}", path) from error
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise DataError(f"{what} is not UTF-8 text: save it as UTF-8", path) from None
    if "\0" in text:
        raise DataError(f"{what} is not UTF-8 text: save it as UTF-8", path)
    return text


def read_list(path: Path, known: Callable[[str], bool] = lambda line: False) -> list[str]:
    """Return the lines of a text file, without empty lines, comments (``# ...``) and a header of column names.

    Args:
        path: The file.
        known: Whether a line is the name of a file: it is then neither a comment nor a header.

    Raises:
        DataError: When it cannot be read, or is empty.
    """
    lines = [line.strip() for line in read_text(path, "the list of names").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("#") or known(line)]
    if len(lines) > 1 and all(map(_HEADER.fullmatch, columns(lines[0]))) and not known(lines[0]):
        del lines[0]
    if not lines:
        raise DataError("the list of names is empty", path)
    return lines


def columns(line: str) -> list[str]:
    """Return the columns of a line, separated by tabs, semicolons or commas, or else by spaces."""
    mark = next((mark for mark in _COLUMN_MARKS if mark in line), None)
    return [part.strip().strip("\"'") for part in line.split(mark)]


def clean(line: str) -> str:
    """Return a listed name in normal form: NFC, with ``/``, without quotes and leading ``./``."""
    return _composed(line.strip().strip("\"'").replace("\\", "/")).removeprefix("./")


def match_name(line: str, found: Container[str], folder: Path, suffixes: Sequence[str]) -> str:
    """Return the name in ``found`` that a line of a list refers to, or else the line without its suffix.

    The line may begin with the folder, or with that of another machine.
    """
    name = without_suffix(clean(line), suffixes)
    if name not in found and any(mark in line for mark in _COLUMN_MARKS):
        files = [cell for cell in columns(line) if cell.lower().endswith(_LISTED)]
        name = without_suffix(clean(files[0]), suffixes) if len(files) == 1 else name
    return next((one for one in (line, name.lstrip("/"), *tails(name, folder)) if one in found), name)


def without_suffix(name: str, suffixes: Sequence[str]) -> str:
    """Return a name without the first of ``suffixes`` that it has, case-insensitively."""
    return next((name[: -len(s)] for s in suffixes if name.lower().endswith(s.lower())), name)


def as_pairs(lines: Sequence[str], path: Path) -> list[tuple[str, str]] | None:
    """Return the pairs (image, label file) of a list, or None for a list of names.

    A line is a pair when two of its columns have image suffixes; other columns, such as numbers, are ignored.

    Raises:
        DataError: When only some lines are pairs.
    """
    cells = [[part for part in columns(line) if part.lower().endswith(_LISTED)] for line in lines]
    paired = [len(parts) == 2 for parts in cells]
    if not any(paired):
        return None
    if not all(paired):
        odd = paired.index(False)
        raise DataError(f"line {odd + 1} is not a pair of image and label file, others are: {lines[odd]!r}", path)
    return [(first, second) for first, second in cells]


def locate(name: str, folders: Iterable[NamedFiles]) -> str | None:
    """Return the path of a listed file in the first of ``folders`` that has it; the name may start with ``/``."""
    if os.path.isfile(name):
        return name
    return next(filter(None, (folder.find(name) for folder in folders)), None)


# ---------------------------------------------------------------- selection


def take(entries: Sequence[_Entry], indices: int | Sequence[int] | None) -> list[_Entry]:
    """Return the first N entries for N, the last N for -N, those listed for a list; all for None.

    Raises:
        UsageError: When an index does not exist.
    """
    if indices is None:
        return list(entries)
    if isinstance(indices, int):
        return list(entries[:indices] if indices >= 0 else entries[indices:])
    wrong = [index for index in indices if not -len(entries) <= index < len(entries)]
    if wrong:
        raise UsageError(f"'indices' has sample {wrong[0]}, but there are {len(entries)}")
    return [entries[index] for index in indices]


def require_files(names: Sequence[str], there: Container[str], what: str) -> None:
    """Raise a `DataError` that lists the names not in ``there``, if any."""
    missing = [name for name in names if name not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} of {len(names)} names {what}: {shown}")


# ---------------------------------------------------------------- helpers


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        stat = os.stat(folder)
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror or error}", folder) from error
    this = stat.st_dev, stat.st_ino
    if this in above:  # a link to a parent folder
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            continue
        if os.path.isdir(entry.path):
            yield from _walk(entry.path, above | {this})
        else:
            yield entry.path


def _listed_files(path: Path) -> list[str]:
    """Return the files listed in a text file, relative to its folder."""
    if path.suffix.lower() not in (".txt", ".lst", ".csv"):
        raise DataError("not a folder, nor a text file (.txt) that lists files", path)
    files = NamedFiles(path.parent)
    lines = read_list(path, lambda line: locate(line, [files]) is not None)
    found = {line: place for line in lines if (place := locate(line, [files]))}
    require_files(lines, found, f"listed in {path} but not found in {path.parent}")
    return [found[line] for line in lines]


def _common_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _at_home(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(file_name: str) -> str:
    """Return a file name for comparison: NFC, its suffix in lower case."""
    stem, suffix = os.path.splitext(_composed(file_name))
    return stem + suffix.lower()


def tails(name: str, folder: Path) -> Iterator[str]:
    """Yield the parts of a listed name that may be relative to the folder, the longest first."""
    parts = name.split("/")
    foreign = name.startswith("/") or re.match("[A-Za-z]:/", name) is not None
    own = _composed(os.path.abspath(folder)).replace(os.sep, "/").split("/")
    for end in range(1, len(parts)):
        head, tail = parts[:end], parts[end:]
        if head == own[-end:] or (foreign and (len(tail) > 1 or head[-1] == own[-1])):
            yield "/".join(tail)
