"""Files of `torch.save` with other objects than plain data, as mmengine writes them. Code in a file is never run."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from segkernel.checkpoint import LOADING, SUFFIXES, read_torch
from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightFormat


class TorchCheckpoint(WeightFormat):
    """Checkpoints of MMSegmentation and mmengine, without their message histories and NumPy values."""

    suffixes: ClassVar = SUFFIXES

    def read(self, path: Path) -> Any:
        try:
            wrong = _other_kind(path)
            if not wrong:
                with LOADING, _stand_ins():
                    return _without_dropped(read_torch(path))
        except Exception as error:  # a damaged file can make the unpickler fail in any way
            raise CheckpointError(f"{path}: {_why_unreadable(error)}") from error
        raise CheckpointError(f"{path}: is {wrong}")


class _Dropped:
    """Replaces a class or function that a file refers to: accepts any arguments and state, and discards them."""

    def __new__(cls, *arguments: Any, **more: Any) -> _Dropped:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **more: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_NUMPY_TYPES = ("Bool", "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float16", "Float32")
_STAND_INS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # by which a pickled HistoryBuffer refers to its methods
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.dtypes.{name}DType" for name in (*_NUMPY_TYPES, "Float64", "Str", "Object")),
)


def _stand_in(path: str) -> type[_Dropped]:
    module, name = path.rsplit(".", 1)
    return type(name, (_Dropped,), {"__module__": module, "__qualname__": name})


_DROPPED: list[Any] = [_stand_in(path) for path in _STAND_INS]


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Let torch unpickle the stand-ins in place of the classes they are named after; process-wide: hold `LOADING`."""
    if hasattr(torch.serialization, "safe_globals"):  # since torch 2.5
        with torch.serialization.safe_globals(_DROPPED):
            yield
        return
    before = list(torch.serialization.get_safe_globals())  # torch 2.4 returns its internal list, which it extends
    torch.serialization.add_safe_globals(_DROPPED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _without_dropped(value: Any) -> Any:
    """Remove all entries that are stand-ins; a state dict keeps its ``_metadata``."""
    if isinstance(value, dict):
        for key in [key for key, entry in value.items() if isinstance(entry, _Dropped) or isinstance(key, _Dropped)]:
            del value[key]
        for key, entry in value.items():
            value[key] = _without_dropped(entry)
        return value
    if type(value) in (list, tuple):
        return type(value)(_without_dropped(entry) for entry in value if not isinstance(entry, _Dropped))
    return value


def _other_kind(path: Path) -> str:
    """Return what the file is if its first bytes show that it is not a checkpoint, else an empty string."""
    with open(path, "rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        return "empty; the download or the copy was cut off"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not weights; the download gave an error or login page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights; fetch the file with 'git lfs pull'"
    if tarfile.is_tarfile(path):
        return "a tar archive, not weights; unpack it, or save again with a newer torch"
    return ""


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    asked = re.search(r"GLOBAL ['\"]?([\w.]+)", text)
    if asked:
        return (
            f"refused: it asks for {asked.group(1)!r}, which is code and not weights; nothing in it was run\n"
            "    where the file was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    if isinstance(error, PermissionError):
        return f"cannot be read: {error.strerror}"
    if "TorchScript" in text:
        return "is a TorchScript program, not weights; save its state_dict() instead"
    if "operand" in text:
        return "was not written by torch.save as a checkpoint; nothing in it was run"
    damaged = ("central directory", "zip archive", "magic number", "ran out of input", "invalid load key", "EOF")
    if isinstance(error, EOFError | LookupError | OSError) or any(words in text for words in damaged):
        return "is damaged or not a checkpoint: truncated, or another kind of file; copy or download it again"
    return f"cannot be read as a checkpoint: {type(error).__name__}: {text.splitlines()[0] if text else 'no reason'}"
