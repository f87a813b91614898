"""Output of a converter: files written atomically, and a manifest of finished jobs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from segkernel.errors import DataError
from segkernel.files import replacing
from segplug_datasets import image
from segplug_datasets.prepare.sources import SourceFile

log = logging.getLogger(__name__)

WORK = ".prepare"
"""The folder in the destination where a converter keeps its manifest and what it unpacked."""


@dataclass
class Output:
    """The destination, as one job sees it.

    Args:
        root: The folder to write into.
        written: The files written so far, relative to it, with their sizes in bytes.
    """

    root: Path
    written: dict[str, int] = field(default_factory=dict)

    def image(self, name: str, pixels: np.ndarray) -> None:
        """Write an image (H, W, 3) or (H, W), uint8, in the format of the name."""
        image.write(self._place(name), pixels)
        self._note(name)

    def mask(self, name: str, labels: np.ndarray) -> None:
        """Write a label map (H, W) as PNG."""
        image.write_mask(self._place(name), labels)
        self._note(name)

    def text(self, name: str, content: str) -> None:
        """Write a text file."""
        with replacing(self._place(name)) as temporary:
            temporary.write_text(content, encoding="utf-8")
        self._note(name)

    def copy(self, name: str, file: SourceFile) -> None:
        """Copy a file of the download as it is."""
        place = self._place(name)
        if not (file.archive is None and place.exists() and place.samefile(file.path)):
            with replacing(place) as temporary, file.open() as stream, open(temporary, "wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
        self._note(name)

    def _place(self, name: str) -> Path:
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _note(self, name: str) -> None:
        self.written[name] = (self.root / name).stat().st_size


@dataclass(frozen=True)
class Job:
    """One step of a conversion: from one file of the download as a rule, to one or more files.

    Args:
        name: Unique within the conversion.
        stamp: Changes when what it reads does.
        write: Writes the files into an output.
    """

    name: str
    stamp: str
    write: Callable[[Output], None]


class Manifest:
    """Finished jobs and their files, one JSON line each, to resume an interrupted conversion.

    Args:
        root: The destination.
        name: The converter's name; several may write into one folder.
        fresh: Start from scratch.
    """

    def __init__(self, root: Path, name: str, fresh: bool = False) -> None:
        self.root, self.path = root, root / WORK / f"{name}.jsonl"
        self._lock = Lock()
        if fresh:
            self.path.unlink(missing_ok=True)
        self._done = dict(self._lines()) if self.path.exists() else {}

    def has(self, job: Job) -> bool:
        """Whether a job is finished and its files are unchanged."""
        entry = self._done.get(job.name)
        if entry is None or entry["stamp"] != job.stamp:
            return False
        return all(_size(self.root / name) == size for name, size in entry["files"].items())

    def add(self, job: Job, files: dict[str, int]) -> None:
        """Record a finished job."""
        entry = {"job": job.name, "stamp": job.stamp, "files": files}
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
            self._done[job.name] = entry

    def _lines(self) -> list[tuple[str, dict]]:
        found = []
        for line in self.path.read_text("utf-8").splitlines():
            try:
                entry = json.loads(line)
                found.append((entry["job"], entry))
            except (ValueError, KeyError, TypeError):  # the last line of a killed process
                log.warning("%s: a damaged line, its files are made again", self.path)
        return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def refuse_nesting(source: Path, root: Path, in_place: bool) -> None:
    """Raise a `DataError` when a conversion would read its own output."""
    if source.resolve() == root.resolve() and not in_place:
        raise DataError("DEST is the folder of the download: give another one", root)
