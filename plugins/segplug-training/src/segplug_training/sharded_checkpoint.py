"""Sharded checkpoints: each rank writes its parts of the tensors, by torch's distributed checkpoint.

    checkpoints/iter_0000100.pt                    # everything else; written last, and names the folder
    checkpoints/iter_0000100.5f0c93d1.shards/      # the tensors

The file and its folder are one checkpoint: `segkernel.checkpoint.load` reads them as any other.
"""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import uuid
import warnings
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from segkernel import checkpoint
from segkernel.checkpoint import LOADING, read_torch
from segkernel.errors import CheckpointError
from segkernel.files import file_name
from segkernel.interfaces.model import WeightFormat

FOLDER = "shards"
"""The checkpoint's key for the name of the folder with its tensors."""
SUFFIX = ".shards"
PART = "in shards"
"""The key of the entry that replaces a tensor; its value is the tensor's name in the folder."""

MakeTensor = Callable[[torch.Size, torch.dtype], Tensor]


class ShardedCheckpoint(WeightFormat):
    """Reads sharded checkpoints whole, in one process."""

    def read(self, path: Path) -> dict[str, Any]:
        return read(path, lambda size, dtype: torch.empty(size, dtype=dtype), alone=True)


def write(path: Path, state: Mapping[str, Any], group: dist.ProcessGroup) -> None:
    """Write a checkpoint whose sharded tensors are not gathered; called by all ranks of ``group`` together.

    A kill at any time leaves the previous checkpoint of this name intact.
    """
    tensors: dict[str, Tensor] = {}
    rest = _without_shards(state, "", tensors)
    names = [f"{path.stem}.{uuid.uuid4().hex[:8]}{SUFFIX}"]
    dist.broadcast_object_list(names, 0, group)
    folder = path.parent / names[0]
    partial = folder.with_suffix(".partial")
    if is_first := dist.get_rank(group) == 0:
        remove_unused(path.parent)
    try:
        dcp.save(tensors, storage_writer=dcp.FileSystemWriter(partial), process_group=group)
    except dcp.CheckpointException as error:  # raised on all ranks; not an Exception
        raise CheckpointError(f"{partial}: cannot be written: {_reason(error)}") from error
    if is_first:
        os.replace(partial, folder)
        checkpoint.save(path, {**rest, FOLDER: names[0]})


def read(path: Path, make: MakeTensor, alone: bool, group: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """Return the entries of a sharded checkpoint.

    Args:
        path: The file next to the folder.
        make: Returns an empty tensor to read into; this rank may hold only a part of it.
        alone: Whether this process reads without other ranks.
        group: The ranks that read together.

    Raises:
        CheckpointError: When the folder is missing or damaged. No code in it is run.
    """
    try:
        content = read_torch(path)
        folder = path.parent / file_name(str(content.pop(FOLDER)))
    except Exception as error:  # whatever torch raises for a damaged file, or for one with code
        message = f"{path}: not a sharded checkpoint; no code in it was run: {_reason(error)}"
        raise CheckpointError(message) from error
    try:
        reader = _Reader(folder)
        entries: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
        tensors = {name: make(entry.size, entry.properties.dtype) for name, entry in entries.items()}
        options = {"no_dist": True} if alone and "no_dist" in inspect.signature(dcp.load).parameters else {}
        with LOADING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that it loads in a single process, as intended here
            dcp.load(tensors, storage_reader=reader, process_group=group, **options)
        return {**_with_shards(content, tensors), "path": str(path)}
    except FileNotFoundError as error:
        message = f"{path}: its tensors are in {folder}, which is not there or not complete"
        raise CheckpointError(f"{message}; copy the folder together with the file") from error
    except (Exception, dcp.CheckpointException) as error:  # a damaged file can make the unpickler fail in any way
        reason = _reason(error)
        raise CheckpointError(f"{folder}: is damaged or has no shards; no code in it was run: {reason}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of an error, of several ranks that of the first."""
    if isinstance(error, dcp.CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error) or type(error).__name__).splitlines()[0]


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint's tensors are in a folder next to it."""
    return path.is_file() and any(path.parent.glob(f"*{SUFFIX}")) and folder_of(path) is not None


def folder_of(path: Path) -> str | None:
    """Return the name of the folder with a checkpoint's tensors, if it has one."""
    content = read_torch(path)
    return content.get(FOLDER) if isinstance(content, Mapping) else None


def remove_unused(folder: Path) -> None:
    """Remove shards that no checkpoint refers to: those of removed checkpoints and interrupted saves."""
    for shards in [*folder.glob(f"*{SUFFIX}"), *folder.glob("*.partial")]:
        stem = shards.name.rsplit(".", 2)[0]
        if not any(folder_of(path) == shards.name for path in folder.glob(f"*{stem}.pt")):
            shutil.rmtree(shards)


def adopt(folder: Path, source: Path) -> None:
    """Link the shards of checkpoints that were linked to ``folder`` from ``source``."""
    for path in folder.glob("*.pt"):
        name = folder_of(path)
        if name and not (folder / name).exists() and (source / name).exists():
            shutil.copytree(source / name, folder / name, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _without_shards(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value with a marker in place of each sharded tensor; the tensors are added to ``tensors``."""
    if hasattr(value, "full_tensor"):
        tensors[name] = value.detach()
        return {PART: name}
    if isinstance(value, dict):
        changed = copy(value)  # keeps the class, and the attribute in which torch stores versions of layers
        changed.update({key: _without_shards(entry, f"{name}/{key}", tensors) for key, entry in value.items()})
        return changed
    if isinstance(value, list | tuple):
        return type(value)(_without_shards(entry, f"{name}/{number}", tensors) for number, entry in enumerate(value))
    return value


def _with_shards(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_without_shards`."""
    if isinstance(value, dict):
        if value.keys() == {PART}:
            return tensors[value[PART]]
        value.update({key: _with_shards(entry, tensors) for key, entry in value.items()})
        return value
    if isinstance(value, list | tuple):
        return type(value)(_with_shards(entry, tensors) for entry in value)
    return value


class _Reader(dcp.FileSystemReader):
    """Torch's reader of shards, restricted: the table of contents may refer only to its own classes and files."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        folder = Path(self.path)
        with open(folder / ".metadata", "rb") as file:
            metadata = _TableUnpickler(file).load()
        tensors: Any = metadata.state_dict_metadata.values()
        if not all(isinstance(entry, TensorStorageMetadata) for entry in tensors):
            raise ValueError("it holds more than tensors")
        if any(file_name(entry.relative_path) != entry.relative_path for entry in metadata.storage_data.values()):
            raise ValueError("it names files elsewhere")
        size = sum(entry.size.numel() * entry.properties.dtype.itemsize for entry in tensors)
        if size > sum(file.stat().st_size for file in folder.iterdir()):
            raise ValueError("its tensors are larger than its files")
        return super().read_metadata(*args, **kwargs)


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        own = module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
        value = getattr(torch, name, None) if module == "torch" else None
        plain = isinstance(value, torch.dtype) or value is torch.Size
        path = module.startswith("pathlib") and name in ("PosixPath", "WindowsPath")
        if plain or path or (own and name in _OWN) or (module, name) == ("torch.serialization", "_get_layout"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


_OWN = {
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorStorageMetadata",
    "TensorProperties",
    "ChunkStorageMetadata",
    "_MEM_FORMAT_ENCODING",
    "_StorageInfo",
}
