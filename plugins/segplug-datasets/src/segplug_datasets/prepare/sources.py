"""Files of a download: in folders, and inside zip and tar archives, whose names count as folders.

A zip archive is read in place. A tar archive, or one inside another, is unpacked into the work folder first, and
of it only what is wanted.
"""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from segkernel.errors import DataError

log = logging.getLogger(__name__)

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", *_TARS)

Wanted = Callable[[str], bool]
"""Whether a file of this name is of use."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a download.

    Args:
        name: Its path from the source on, with ``/``; an archive ``a.zip`` on the way counts as a folder ``a``.
        path: The file, or the zip archive that holds it.
        stamp: Changes when the file does.
        archive: The open archive that holds it.
        member: Its name in there.
    """

    name: str
    path: Path
    stamp: str
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)
    member: str = ""

    def open(self) -> IO[bytes]:
        """Return a stream of the file's contents."""
        return open(self.path, "rb") if self.archive is None else self.archive.open(self.member)

    def read(self) -> bytes:
        """Return the file's contents."""
        with self.open() as stream:
            return stream.read()

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Yield a path to read the file from, for readers that need one."""
        if self.archive is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="segkernel-") as folder:
            path = Path(folder, PurePosixPath(self.name).name)
            path.write_bytes(self.read())
            yield path


@contextmanager
def open_files(root: Path, work: Path, wanted: Wanted, without: Path | None = None) -> Iterator[list[SourceFile]]:
    """Yield the wanted files of a folder or an archive, those outside archives first, sorted by name.

    Args:
        root: The folder or archive.
        work: Where archives are unpacked that cannot be read in place.
        wanted: Whether a file is of use.
        without: A folder inside to skip.

    Raises:
        DataError: When there is no such file or folder, or an archive is damaged.
    """
    if not root.exists():
        raise DataError("no such file or folder", root)
    if root.is_file() and not is_archive(root.name):
        raise DataError(f"neither a folder nor an archive ({', '.join(ARCHIVES)})", root)
    with ExitStack() as stack:
        plain: list[SourceFile] = []
        archives = [("", root)] if root.is_file() else []
        for name, path in () if root.is_file() else _walk(root, without):
            if is_archive(name):
                archives.append((f"{without_suffix(name)}/", path))
            elif wanted(name):
                plain.append(SourceFile(name, path, _stamp(path)))
        inside = [file for prefix, path in archives for file in _files_of(path, prefix, work, wanted, stack)]
        yield [*sorted(plain, key=_name), *sorted(inside, key=_name)]


def is_archive(name: str) -> bool:
    """Return whether a file's name is that of an archive."""
    return name.lower().endswith(ARCHIVES)


def without_suffix(name: str) -> str:
    """Return an archive's name without its suffixes."""
    return name[: -max(len(suffix) for suffix in ARCHIVES if name.lower().endswith(suffix))]


def _name(file: SourceFile) -> str:
    return file.name


def _walk(root: Path, without: Path | None) -> Iterator[tuple[str, Path]]:
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if _is_of_use(name) and Path(place, name) != without]
        for name in filter(_is_of_use, files):
            path = Path(place, name)
            yield path.relative_to(root).as_posix(), path


def _is_of_use(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}-{int(stat.st_mtime)}"


def _files_of(path: Path, prefix: str, work: Path, wanted: Wanted, stack: ExitStack) -> Iterator[SourceFile]:
    """Yield the files of an archive, and of those inside it."""
    try:
        if path.name.lower().endswith(_TARS):
            place = _unpack_tar(path, prefix, work, wanted)
            found = [SourceFile(prefix + name, file, _stamp(file)) for name, file in _walk(place, None)]
        else:
            found = _members(stack.enter_context(zipfile.ZipFile(path)), path, prefix)
        for file in found:
            if is_archive(file.name):
                inner = file.path if file.archive is None else _unpack(file, work)
                yield from _files_of(inner, f"{without_suffix(file.name)}/", work, wanted, stack)
            elif wanted(file.name):
                yield file
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DataError(f"a damaged archive, download it again: {error}", path) from error


def _members(archive: zipfile.ZipFile, path: Path, prefix: str) -> list[SourceFile]:
    return [
        SourceFile(prefix + info.filename, path, f"{info.file_size}-{info.CRC:08x}", archive, info.filename)
        for info in archive.infolist()
        if not info.is_dir() and all(map(_is_of_use, info.filename.split("/")))
    ]


def _unpack(file: SourceFile, work: Path) -> Path:
    """Return the copy, in the work folder, of an archive inside a zip archive."""
    target = work / f"{file.stamp}-{PurePosixPath(file.name).name}"
    if not target.exists():
        log.info("unpacking %s", file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with file.open() as stream, open(part, "wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        part.replace(target)
    return target


def _unpack_tar(path: Path, prefix: str, work: Path, wanted: Wanted) -> Path:
    """Return the folder, in the work folder, that holds the wanted files of a tar archive."""
    target = work / f"{_stamp(path)}-{without_suffix(path.name)}"
    if target.exists():
        return target
    log.info("unpacking %s", path)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            safe = member.isfile() and not name.is_absolute() and ".." not in name.parts
            if safe and (is_archive(member.name) or wanted(prefix + str(name))):
                _write_member(archive, member, part / name)
    part.replace(target)
    return target


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = archive.extractfile(member)
    if stream is not None:
        with stream, open(path, "wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
        os.utime(path, (member.mtime, member.mtime))
