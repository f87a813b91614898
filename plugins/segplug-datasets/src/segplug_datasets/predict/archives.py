"""Files inside zip and tar archives, read one at a time without unpacking the archive."""

from __future__ import annotations

import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from segkernel.errors import DataError
from segplug_datasets.prepare.sources import is_archive as is_archive

MOST_BYTES = 2**31
"""Limit for one file of an archive, decompressed."""
_SMALL, _DENSEST = 2**30, 100
"""An archive that expands to more than ``_SMALL`` bytes must not be compressed further than by ``_DENSEST``."""
_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


class Archive:
    """An open zip or tar archive. Its files are read by one thread at a time.

    Raises:
        DataError: When it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._reported():
            self._zip = zipfile.ZipFile(path) if path.name.lower().endswith(".zip") else None
            self._tar = None if self._zip else tarfile.open(path)  # noqa: SIM115

    def members(self) -> list[Member]:
        """Return its regular files in order, without hidden ones and those of the system.

        Raises:
            DataError: When it is damaged or a decompression bomb.
        """
        found, total = [], 0
        most = max(_SMALL, _DENSEST * self.path.stat().st_size)
        with self._reported():
            for name, size in self._entries():
                total += size
                if total > most:  # checked before a tar stream is decompressed further
                    raise DataError(f"expands to more than {most // 2**20:,} MiB: refused as a bomb", self.path)
                parts = PurePosixPath(name).parts
                if not any(part.startswith(".") or part == "__MACOSX" for part in parts):
                    found.append(Member(self, name, size))
        return found

    def _entries(self) -> Iterator[tuple[str, int]]:
        if self._zip:
            yield from ((info.filename, info.file_size) for info in self._zip.infolist() if not info.is_dir())
        else:
            yield from ((info.name, info.size) for info in self._tar or () if info.isfile())

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            DataError: When it is damaged or encrypted.
        """
        with self._reported(name):
            if self._zip:
                return self._zip.read(name)
            stream = self._tar.extractfile(name) if self._tar else None
            return stream.read() if stream else b""

    def close(self) -> None:
        """Close the file."""
        for archive in (self._zip, self._tar):
            if archive:
                archive.close()

    @contextmanager
    def _reported(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise DataError("no such file", self.path) from None
        except _ERRORS as error:  # RuntimeError: encrypted, or a compression that Python does not know
            raise DataError(f"cannot be read from the archive: {error}", self.path / name) from error


@dataclass(frozen=True)
class Member:
    """A file of an archive.

    Args:
        archive: The archive.
        name: Path inside it.
        size: Bytes, decompressed.
    """

    archive: Archive
    name: str
    size: int

    def __str__(self) -> str:
        return str(self.archive.path / self.name)

    def read(self) -> bytes:
        """Return its content.

        Raises:
            DataError: When it is damaged, encrypted or too large.
        """
        if self.size > MOST_BYTES:
            raise DataError(f"{self.size} bytes are more than the limit of {MOST_BYTES}", str(self))
        return self.archive.read(self.name)


@contextmanager
def as_file(data: bytes, member: Member) -> Iterator[Path]:
    """Yield a path with the content of a member, for readers that need a file; errors name the member."""
    with tempfile.TemporaryDirectory(prefix="segkernel-") as folder:
        path = Path(folder, f"image{''.join(PurePosixPath(member.name).suffixes[-2:])}")
        path.write_bytes(data)
        try:
            yield path
        except DataError as error:
            raise DataError(str(error).removeprefix(f"{path}: "), str(member)) from error
