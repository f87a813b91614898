"""Cache of decoded samples in memory shared by all processes of a machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from segkernel.annotations import Positive
from segkernel.catalog import display
from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import Dataset
from segkernel.labels import Color
from segkernel.sample import Sample
from segplug_datasets import pages
from segplug_datasets.class_index import ClassIndex, class_index
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_PREFIX = "segplug-cache-"
_made = itertools.count()


class CachedDataset:
    """A data set whose samples are decoded on first access and then kept in shared memory.

    Workers, however they are started, and the ranks of this machine share one copy. A sample's arrays are copy-on-write
    views. The memory is released by `close`, or when the last process that created the data set ends; the cache of a
    killed process is removed by the next one.

    Args:
        dataset: Any data set whose samples can be packed.
        max_bytes: Limit in bytes; half of the free memory when None. Samples beyond it are read every time.
        folder: Folder of the cache; ``/dev/shm`` when None, or the system's temporary folder if that does not exist.

    Raises:
        UsageError: When ``max_bytes`` is not above 0.
        DataError: When the folder cannot be written.
    """

    _finalizer: weakref.finalize[..., Any] | None = None  # only in the process that created the data set

    _repr_html_ = display

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example = FolderDataset(**FolderDataset.conformance(folder)[0])
        return [{"dataset": example, "max_bytes": 1e6}]

    def __init__(self, dataset: Dataset, max_bytes: Positive | None = None, folder: str | Path | None = None) -> None:
        if max_bytes is not None and not max_bytes > 0:
            raise UsageError(f"max_bytes must be above 0, not {max_bytes}")
        self.dataset = dataset
        if hasattr(dataset, "labels"):
            self.labels: LabelSpec = dataset.labels
        home = Path(folder or ("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()))
        try:
            free = _free(home)
            self.max_bytes = round(free / 2 if max_bytes is None else min(max_bytes, free))
            self.folder, self._held = _open(home, _key(dataset))
        except OSError as error:
            raise DataError(f"cannot be used for a cache: {error.strerror or error}", home) from error
        self._finalizer = weakref.finalize(self, _leave, os.getpid(), self.folder, self._held)
        _warn_when_too_large(dataset, self.max_bytes, max_bytes, free, home)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.dataset.classes)

    @property
    def palette(self) -> tuple[Color, ...]:
        """One RGB colour per class."""
        return tuple(self.dataset.palette)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("dataset", "max_bytes", "folder", "labels")  # other processes use the memory but do not release it
        return {name: value for name, value in vars(self).items() if name in kept}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        path = self.folder / str(index % len(self))
        try:
            return pages.decode(pages.map_block(path))
        except (OSError, ValueError):
            sample = self.dataset[index]
        self._keep(path, sample)
        return sample

    def class_index(self, cache: str | Path | None = None, workers: int | None = None) -> ClassIndex:
        """Return the classes of each sample; see `segplug_datasets.class_index`."""
        return class_index(self.dataset, cache, workers)

    def kept(self) -> tuple[int, int]:
        """Return the number of samples in memory, and their bytes."""
        try:
            sizes = [_taken(entry.stat().st_size) for entry in os.scandir(self.folder) if entry.name.isdigit()]
        except FileNotFoundError:
            return 0, 0
        return len(sizes), sum(sizes)

    def close(self) -> None:
        """Release the memory, unless another process uses it."""
        if self._finalizer:
            self._finalizer()

    def _keep(self, path: Path, sample: Sample) -> None:
        """Write a sample to the cache, if there is room and no other process is writing it."""
        parts = pages.encode(sample)
        unfinished = path.with_suffix(".part")
        try:
            if not self._reserve(_taken(sum(map(len, parts))), path, unfinished):
                return
            with open(unfinished, "wb") as file:
                file.writelines(parts)
            os.replace(unfinished, path)
        except FileNotFoundError:  # the cache was closed
            return
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.write_bytes(b"")  # drop the data but keep the mark: this sample does not fit
            if error.errno != errno.ENOSPC:
                raise DataError(f"cannot be written: {error.strerror or error}", path) from error

    def _reserve(self, size: int, path: Path, unfinished: Path) -> bool:
        with open(self.folder / "used", "r+b") as file, _locked(file):
            used = int(file.read() or 0) + size
            if used > self.max_bytes or path.exists() or unfinished.exists():
                return False
            unfinished.touch()
            file.seek(0)
            file.write(str(used).encode())
            return True


def _key(dataset: Dataset) -> str:
    """Return a name shared only by the ranks of one launch."""
    launched = os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
    owner = f"{os.getppid()}-{os.environ.get('MASTER_PORT')}" if launched else f"{os.getpid()}"
    place = str(tempfile.gettempdir())
    identity = repr((next(_made), type(dataset).__name__, len(dataset), tuple(dataset.classes), place))
    return f"{_PREFIX}{owner}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def _open(home: Path, key: str) -> tuple[Path, IO[bytes]]:
    """Return the folder of a cache and the open file whose shared lock marks it as in use."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = home / f"{key}-{user}"
    with open(home / f"{_PREFIX}{user}.lock", "a+b") as gate, _locked(gate):
        for other in home.glob(f"{_PREFIX}*-{user}") if fcntl else ():
            _remove_unused(other)
        folder.mkdir(exist_ok=True, mode=0o700)
        held = open(folder / "in-use", "a+b")  # noqa: SIM115 - open as long as the data set lives
        if fcntl:
            fcntl.flock(held, fcntl.LOCK_SH)
        (folder / "used").touch()
    return folder, held


def _leave(owner: int, folder: Path, held: IO[bytes]) -> None:
    if os.getpid() != owner:  # a forked worker's copy
        return
    if fcntl:
        fcntl.flock(held, fcntl.LOCK_UN)  # for the workers forked from this process as well
    held.close()
    _remove_unused(folder)


def _remove_unused(folder: Path) -> None:
    """Remove a cache that no process uses."""
    with contextlib.suppress(OSError):
        if fcntl:
            with open(folder / "in-use", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if another process holds the lock
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    """Hold an exclusive lock on a file; without locks (Windows) a cache may exceed its limit by a few samples."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        file.flush()
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_UN)


def _free(home: Path) -> int:
    """Return the free bytes of the file system, or of memory if that is known to be less."""
    free = shutil.disk_usage(home).free
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        free = min(free, int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, KeyError):
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(counts["file"]) - int(counts["shmem"])  # page cache, freed when needed
        free = min(free, max(limit - used + files, 0))
    return free


def _warn_when_too_large(dataset: Dataset, limit: int, requested: float | None, free: int, home: Path) -> None:
    sizes = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, 4).astype(int)).tolist() if len(dataset) else ():
        with contextlib.suppress(DataError):
            sizes.append(_taken(sum(map(len, pages.encode(dataset[index])))))
    needed = np.mean(sizes) * len(dataset) if sizes else 0
    if requested is not None and requested > limit:
        log.warning("max_bytes of the cache is %s, but only %s are free in %s", _gb(requested), _gb(free), home)
    if needed > limit:
        log.warning(
            "the %d samples need about %s, the cache has %s: about %d %% of them are cached, the others are read every "
            "time. Raise max_bytes, or pack the data set: seg-kernel data pack",
            len(dataset), _gb(needed), _gb(limit), 100 * limit / needed,
        )  # fmt: skip


def _taken(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
