"""Packed data sets: samples decoded once into large files of raw arrays, which are memory-mapped.

    pack(FolderDataset("images", "masks"), "packed/train", workers=8)
    dataset = PackedDataset("packed/train")

A folder of ``shard-NNNNN.bin`` (blocks of `segplug_datasets.pages`, each at a multiple of 4096 bytes, and at the end
a table of offset, length and CRC-32 of each), ``index.npy`` (the tables of all shards) and ``pack.json`` (format,
classes, labels, shards). Shards are written atomically, so that interrupted packing can be resumed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from segkernel.catalog import display
from segkernel.errors import DataError, UsageError
from segkernel.files import replacing
from segkernel.interfaces.data import Dataset
from segkernel.labels import Color, Labels
from segkernel.sample import Sample
from segplug_datasets import pages
from segplug_datasets.example import write_example
from segplug_datasets.files import FolderDataset
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.labels_hook import LabelsHook
from segplug_datasets.parallel import run_in_processes

VERSION = 1
"""Version of the format; others are rejected."""

_MAGIC = b"SEGPACK1"
_BLOCK = 4096
_TRAILER = len(_MAGIC) + 16  # magic, rows of the table, CRC-32 of the table
_AGAIN = "pack the data set again: complete shards are kept"


# ---------------------------------------------------------------- reading


class PackedDataset:
    """A data set written by `pack`: the same samples as the original, memory-mapped instead of decoded.

    Arrays are copy-on-write views into a map of the file: only accessed pages are read, and writes by transforms change
    that sample alone.

    Args:
        path: The folder.
        verify: Verify the checksum of every sample; reads all of it.

    Raises:
        DataError: When it is not a pack, unfinished, of another version, or a shard is missing or truncated.
    """

    run_hooks = (LabelsHook,)
    _repr_html_ = display

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Pack a tiny data set into ``folder`` and return the arguments that read it."""
        write_example(folder / "images", folder / "masks", (0, 1, 255), ".jpg", ".png")
        pack(FolderDataset("images", "masks", data_root=folder), folder / "packed")
        return [{"path": str(folder / "packed")}]

    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def __init__(self, path: str | Path, verify: bool = False) -> None:
        self.path, self.verify = os.path.abspath(path), verify
        self.data_root = self.path
        summary = _read_summary(Path(self.path))
        self.classes = tuple(summary["classes"])
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in summary["palette"])
        if summary["labels"] is not None:
            self.labels = _as_labels(summary["labels"])
        self._index = _read_index(Path(self.path), summary)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "verify": self.verify}  # another process opens its own maps

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard, offset, length, checksum = self._index[index].tolist()
        path = Path(self.path, _shard_name(shard))
        block = _block_of(path, offset, length)
        try:
            if self.verify and zlib.crc32(block) != checksum:
                raise DataError("its checksum differs")
            return pages.decode(block)
        except DataError as error:
            raise DataError(f"sample {index} is damaged; {_AGAIN}\n    {error}", path) from error


def _block_of(path: Path, offset: int, length: int) -> Any:
    try:
        return pages.map_block(path, offset, length)
    except FileNotFoundError:
        raise DataError(f"this shard is missing; {_AGAIN}", path) from None
    except ValueError as error:
        raise DataError(f"this shard is truncated; {_AGAIN}", path) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", path) from error


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / "pack.json"
    if not path.exists():
        unfinished = any(folder.glob("*shard-*"))
        message = f"packing was not finished; {_AGAIN}" if unfinished else "not a packed data set: it has no pack.json"
        raise DataError(message, folder)
    try:
        content = json.loads(path.read_text("utf-8"))
        version, checksum, summary = content["version"], content["crc32"], content["pack"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DataError(f"damaged ({error}); {_AGAIN}", path) from error
    if version != VERSION:
        raise DataError(f"format version {version}, this release reads {VERSION}; pack the data set again", path)
    if checksum != _checksum(summary):
        raise DataError(f"damaged (its checksum differs); {_AGAIN}", path)
    return cast(dict[str, Any], summary)


def _checksum(summary: Any) -> int:
    return zlib.crc32(json.dumps(summary, sort_keys=True).encode())


def _read_index(folder: Path, summary: Mapping[str, Any]) -> np.ndarray:
    """Return (samples, 4) int64: shard, offset, length and CRC-32; checks that every shard is complete."""
    path = folder / "index.npy"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error}); {_AGAIN}", path) from error
    if zlib.crc32(content) != summary["index_crc32"]:
        raise DataError(f"not the index that pack.json describes; {_AGAIN}", path)
    index: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
    for number, size in enumerate(summary["shards"]):
        shard = folder / _shard_name(number)
        if not shard.exists():
            raise DataError(f"this shard is missing; {_AGAIN}", shard)
        if shard.stat().st_size != size:
            raise DataError(f"has {shard.stat().st_size} bytes instead of {size}; {_AGAIN}", shard)
    return index


def _as_labels(record: Mapping[str, Any]) -> LabelSpec:
    values = record["values"]
    return LabelSpec(
        tuple(record["classes"]),
        tuple(tuple(color) for color in record["palette"]),
        tuple(record["ignore"]),
        record["offset"],
        None if values is None else {int(value): class_id for value, class_id in values},
        record.get("background"),
        task=record.get("task", "multiclass"),
    )


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.bin"


def verify_pack(path: str | Path) -> Iterator[tuple[int, str]]:
    """Read a whole pack; yield the index of each damaged or outdated sample, and the problem.

    A sample is outdated when its files have changed since; missing files do not count as changes.

    Raises:
        DataError: As `PackedDataset`.
    """
    dataset = PackedDataset(path)
    for index, (shard, offset, length, checksum) in enumerate(dataset._index.tolist()):
        file = Path(dataset.path, _shard_name(shard))
        block = _block_of(file, offset, length)
        if zlib.crc32(block) != checksum:
            yield index, f"{file}: damaged at byte {offset}; {_AGAIN}"
        elif changed := _changed_files(pages.read_note(block)):
            yield index, f"{changed[0]}: changed since it was packed; {_AGAIN}"


# ---------------------------------------------------------------- writing


def pack(
    dataset: Dataset,
    folder: str | Path,
    workers: int = 0,
    shard_bytes: int = 256 * 2**20,
    source: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PackedDataset:
    """Decode every sample once and write it into ``folder``; finished shards of an interrupted run are kept.

    Of a kept shard, all checksums, the first sample, and the sizes and times of the source files are compared; if any
    differs, the shard is written again. Only one process may pack into a folder.

    Args:
        dataset: Any data set that can be pickled.
        folder: Output folder; created if missing.
        workers: Processes that decode and write; 0 uses this one.
        shard_bytes: Approximate size of a shard.
        source: The data set's config, stored so that packing with another config into the folder is an error.
        progress: Called with the number of finished samples and the total.

    Raises:
        DataError: When samples cannot be read (all are named; other shards are kept), the disk is full, or the folder
            has a pack of another data set.
        UsageError: When a sample has a value that cannot be packed.
    """
    if workers < 0 or shard_bytes < 1:
        raise UsageError(f"workers {workers} and shard_bytes {shard_bytes}: need at least 0 and 1")
    folder = Path(folder)
    plan = _plan(dataset, folder, shard_bytes, source)
    (folder / "pack.json").unlink(missing_ok=True)
    tables: dict[int, np.ndarray] = {}
    errors: list[str] = []
    done = 0
    for job, table, failed in run_in_processes(_pack_shard, dataset, plan.jobs(folder), workers):
        if table is not None:
            tables[job.number] = table
        errors += failed
        done += job.end - job.start
        if progress:
            progress(done, len(dataset))
    if errors:
        more = f"\n    and {len(errors) - 20} more" if len(errors) > 20 else ""
        listed = "\n    ".join(errors[:20])
        raise DataError(f"{len(errors)} samples cannot be packed; fix them and run again:\n    {listed}{more}", folder)
    _finish(folder, plan, [tables[number] for number in sorted(tables)])
    return PackedDataset(folder)


@dataclass(frozen=True)
class _Plan:
    """Assignment of samples to shards, and the stored description of the data set."""

    summary: dict[str, Any]
    per_shard: int

    def jobs(self, folder: Path) -> list[_Job]:
        starts = range(0, self.summary["samples"], self.per_shard)
        ranges = [(start, min(start + self.per_shard, self.summary["samples"])) for start in starts]
        return [_Job(str(folder / _shard_name(n)), n, *ends) for n, ends in enumerate(ranges)]


@dataclass(frozen=True)
class _Job:
    path: str
    number: int
    start: int
    end: int


def _plan(dataset: Dataset, folder: Path, shard_bytes: int, source: Mapping[str, Any] | None) -> _Plan:
    """Return the plan of the pack in ``folder``, or a new one after checking the disk space."""
    summary = _describe(dataset, source)
    if not summary["samples"]:
        raise DataError("the data set is empty", getattr(dataset, "data_root", None))
    path = folder / "plan.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        if path.exists():
            return _resumed(path, summary)
        mean = _mean_size(dataset)
        _refuse_full_disk(folder, round(mean * len(dataset)))
        plan = _Plan(summary, max(1, round(shard_bytes / mean)))
        _write_json(path, asdict(plan))
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", folder) from error
    return plan


def _resumed(path: Path, summary: dict[str, Any]) -> _Plan:
    try:
        found = json.loads(path.read_text("utf-8"))
        same, per_shard = found["summary"] == json.loads(json.dumps(summary)), max(1, int(found["per_shard"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"damaged ({error}): delete the folder and pack again", path) from error
    if not same:
        raise DataError("contains a pack of another data set, or of another version: delete it first", path.parent)
    return _Plan(summary, per_shard)


def _describe(dataset: Dataset, source: Mapping[str, Any] | None) -> dict[str, Any]:
    known: Labels | None = getattr(dataset, "labels", None)
    labels = LabelSpec.of(known) if known else None
    return {
        "version": VERSION,
        "type": type(dataset).__name__,
        "samples": len(dataset),
        "classes": list(dataset.classes),
        "palette": [list(map(int, color)) for color in dataset.palette],
        "labels": None if labels is None else _of_labels(labels),
        "source": None if source is None else json.loads(json.dumps(source, default=str)),
    }


def _of_labels(labels: LabelSpec) -> dict[str, Any]:
    return {
        "classes": list(labels.classes),
        "palette": [list(color) for color in labels.palette],
        "ignore": list(labels.ignore),
        "offset": labels.offset,
        "values": None if labels.values is None else [list(pair) for pair in labels.values.items()],
        "background": labels.background,
        "task": labels.task,
    }


def _mean_size(dataset: Dataset) -> float:
    """Return the mean size in bytes of a few evenly spaced samples; unreadable ones are reported later."""
    sizes = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, 8).astype(int)).tolist():
        with contextlib.suppress(DataError):
            sizes.append(_aligned(sum(map(len, pages.encode(dataset[index])))))
    return sum(sizes) / len(sizes) if sizes else _BLOCK


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        message = f"the pack needs about {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB left"
        raise DataError(f"{message}: choose another folder or free some space", folder)


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), "utf-8")


def _finish(folder: Path, plan: _Plan, tables: Sequence[np.ndarray]) -> None:
    shards = [np.insert(table, 0, number, axis=1) for number, table in enumerate(tables)]
    index = np.concatenate(shards)
    with replacing(folder / "index.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, index)
    checksum = zlib.crc32((folder / "index.npy").read_bytes())
    sizes = [(folder / _shard_name(number)).stat().st_size for number in range(len(tables))]
    summary = {**plan.summary, "shards": sizes, "index_crc32": checksum}
    _write_json(folder / "pack.json", {"version": VERSION, "crc32": _checksum(summary), "pack": summary})


# ---------------------------------------------------------------- one shard


def _pack_shard(dataset: Dataset, job: _Job) -> tuple[_Job, np.ndarray | None, list[str]]:
    """Keep or write a shard; return its table (samples, 3) of offset, length and CRC-32, and the errors."""
    path = Path(job.path)
    table = _kept(dataset, job, path)
    if table is not None:
        return job, table, []
    rows: list[tuple[int, int, int]] = []
    errors: list[str] = []
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            for index in range(job.start, job.end):
                try:
                    parts = _block(dataset, index)
                except DataError as error:
                    errors.append(str(error))
                    continue
                if not errors:
                    rows.append(_write_block(file, parts))
            if errors:
                raise _Unreadable
            table = np.array(rows, np.int64)
            _write_table(file, table)
    except _Unreadable:
        return job, None, errors
    except OSError as error:
        hint = "; free some space and pack again: complete shards are kept" if error.errno == errno.ENOSPC else ""
        raise DataError(f"cannot be written: {error.strerror or error}{hint}", path) from error
    return job, table, []


class _Unreadable(Exception):
    """Leaves a shard unwritten."""


def _block(dataset: Dataset, index: int) -> list[bytes]:
    sample = dataset[index]
    return pages.encode(sample, _stamps(sample.meta))


def _stamps(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return size and modification time of the files in ``meta``, by path."""
    stamps = {}
    for value in meta.values():
        if isinstance(value, str) and os.sep in value:
            with contextlib.suppress(OSError, ValueError):
                found = os.stat(value)
                stamps[value] = [found.st_size, found.st_mtime_ns]
    return stamps


def _write_block(file: BinaryIO, parts: Sequence[bytes]) -> tuple[int, int, int]:
    offset, length, checksum = file.tell(), 0, 0
    for part in parts:
        file.write(part)
        length += len(part)
        checksum = zlib.crc32(part, checksum)
    file.write(bytes(_aligned(length) - length))
    return offset, length, checksum


def _write_table(file: BinaryIO, table: np.ndarray) -> None:
    content = table.astype("<i8").tobytes()
    file.write(content + _MAGIC + len(table).to_bytes(8, "little") + zlib.crc32(content).to_bytes(8, "little"))
    file.flush()
    os.fsync(file.fileno())


def _read_table(path: Path) -> np.ndarray | None:
    """Return the table of a shard; None when there is none, or it is damaged."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - _TRAILER, 0))
            trailer = file.read()
            rows = int.from_bytes(trailer[len(_MAGIC) : -8], "little")
            start = end - len(trailer) - rows * 24
            if not trailer.startswith(_MAGIC) or start < 0:
                return None
            file.seek(start)
            content = file.read(rows * 24)
    except OSError:
        return None
    if zlib.crc32(content) != int.from_bytes(trailer[-8:], "little"):
        return None
    return np.frombuffer(content, "<i8").reshape(rows, 3)


def _kept(dataset: Dataset, job: _Job, path: Path) -> np.ndarray | None:
    """Return the table of an existing shard that is complete and up to date; else None."""
    table = _read_table(path)
    if table is None or len(table) != job.end - job.start:
        return None
    for row, (offset, length, checksum) in enumerate(table.tolist()):
        try:
            block = _block_of(path, offset, length)
            if zlib.crc32(block) != checksum or _changed_files(pages.read_note(block)):
                return None
            # If the first sample is equal, so are the others: same files in the same order.
            if row == 0 and b"".join(_block(dataset, job.start)) != bytes(block):
                return None
        except DataError:
            return None
    return table


def _changed_files(stamps: Mapping[str, list[int]] | None) -> list[str]:
    return [path for path, stamp in (stamps or {}).items() if _stamps({"": path}).get(path, stamp) != stamp]


def _aligned(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
