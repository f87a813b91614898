"""Files of weights: written whole or not at all, read without running anything that is inside.

save("latest.pth", {"state_dict": model.state_dict(), "meta": {"classes": ["road", "sky"]}})
model.load_state_dict(load("latest.pth")["state_dict"])     # or segkernel.weights.load_into, which says what fits
"""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from segkernel.catalog import Catalog
from segkernel.errors import CheckpointError, did_you_mean, worker_crash_of
from segkernel.files import replacing
from segkernel.weight_formats import GROUP, locate, reader_of

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
"""Of files that torch writes; other files are read by weight formats."""
PLAIN = (str, int, float, bool, type(None))
"""Types that may be saved beside tensors, lists, tuples and dicts."""

# ---------------------------------------------------------------- saving


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` to ``path`` so that a kill at any moment leaves the old file or the new one, whole.

    Raises:
        CheckpointError: When a value is not a tensor, plain value or container of these (its key is named, nothing is
            written), or when the file cannot be written (the old file stays as it was).
    """
    path = Path(path)
    _check_plain(state, "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        if crash := worker_crash_of(error):
            raise crash from error
        kept = "the file that was there is untouched" if path.is_file() else "no file was left behind"
        raise CheckpointError(f"{path}: cannot be written: {_reason(error)}; {kept}") from error


def _check_plain(value: Any, where: str) -> None:
    """Exact types only: a subclass would be pickled as code that the safe loader must refuse."""
    kind = type(value)
    if kind in PLAIN or kind in (Tensor, nn.Parameter):
        return
    if kind in (dict, OrderedDict):
        for key, entry in value.items():
            if type(key) not in PLAIN:
                raise CheckpointError(f"{where or 'checkpoint'}: a key is {_describe(key)}; keys must be plain values")
            _check_plain(entry, f"{where}.{key}" if where else str(key))
    elif kind in (list, tuple):
        for index, entry in enumerate(value):
            _check_plain(entry, f"{where}[{index}]")
    else:
        message = f"{where or 'checkpoint'}: {_describe(value)} cannot be saved in a checkpoint"
        raise CheckpointError(f"{message}; make it a tensor, str, int, float, bool, None, list, tuple or dict")


def _describe(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__} {str(value)[:60]!r}"


def _reason(error: BaseException) -> str:
    """Find the system's own words: torch wraps a failed write in an error that does not tell why."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; not every file system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------- loading


class _Dropped:
    """Stands in for a class or function that old files name: takes any arguments and state, and keeps none."""

    def __new__(cls, *arguments: Any, **more: Any) -> _Dropped:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **more: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_NUMPY_TYPES = ("Bool", "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float16", "Float32")
_STAND_INS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",  # how a HistoryBuffer names its own methods
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


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours, of MMSegmentation or mmengine, a bare state dict, or what a weight format reads.

    Args:
        path: A file, or a name or an address that a weight format locates.

    Returns:
        The file's entries, tensors on the CPU, with at least ``state_dict`` (name -> tensor, without ``module.``
        prefixes) and ``meta`` (``classes`` and ``palette`` by these names where the file knows them).

    Raises:
        CheckpointError: When the file is missing, damaged, not a checkpoint, or holds anything but plain data; no
            code in it is ever run.
        ComponentError: When the package that reads files of this suffix, or locates this name, is not installed.
    """
    path = locate(path)
    _check_file(path)
    content = _read(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint or a state dict")
    content = _without_dropped(content)
    found = content.get("meta")
    meta = dict(found) if isinstance(found, Mapping) else {}
    rest = {key: value for key, value in content.items() if not isinstance(value, Tensor)}
    return {**rest, "state_dict": _find_weights(content, path), "meta": _with_classes(meta)}


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)
        hint = f"give one of its files: {', '.join(inside[:5])}" if inside else f"it holds no {', '.join(SUFFIXES)}"
        raise CheckpointError(f"{path}: is a folder; {hint}")
    if not path.is_file():
        names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, names)
        raise CheckpointError(f"{path}: no such file" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    try:
        with open(path, "rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    wrong = ""
    if not start:
        wrong = "empty; the download or the copy was cut off"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        wrong = "a web page, not weights; the download gave an error or login page"
    elif start.startswith(b"version https://git-lfs"):
        wrong = "a Git LFS pointer, not weights; fetch the file with 'git lfs pull'"
    elif tarfile.is_tarfile(path):  # torch read these once, and before 2.6 unpacks them whatever they hold
        wrong = "a tar archive, not weights; unpack it, or save again with a newer torch"
    if wrong:
        raise CheckpointError(f"{path}: is {wrong}")


def _read(path: Path) -> Any:
    foreign = path.suffix not in ("", *SUFFIXES)
    reader = reader_of(path.suffix) if foreign else None
    content = reader.read(path) if reader else None
    try:
        return _read_torch(path) if content is None else content
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        missing = Catalog.current().why_none(GROUP, str(path)) if foreign else None
        raise missing or CheckpointError(f"{path}: {_why_unreadable(error)}") from error


def _read_torch(path: Path) -> Any:
    with _LOADING, _stand_ins(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on odd files; what matters is in the error
        # Before 2.6 torch only warns of a program, then loads it, which runs what is in it.
        warnings.filterwarnings("error", message=".*TorchScript")
        return torch.load(path, map_location="cpu", weights_only=True)


_LOADING = threading.Lock()
"""The stand-ins and the warning filters are the process's: one thread must not take them from another."""


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    if hasattr(torch.serialization, "safe_globals"):  # since torch 2.5
        with torch.serialization.safe_globals(_DROPPED):
            yield
        return
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(_DROPPED)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _why_unreadable(error: Exception) -> str:
    text = str(error)
    asked = re.search(r"GLOBAL ['\"]?([\w.]+)", text)
    if asked:
        return (
            f"refused: it asks for {asked.group(1)!r}, which is code and not weights; nothing in it was run\n"
            "    where the file was made, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
        )
    if "TorchScript" in text:
        return "is a TorchScript program, not weights; save its state_dict() instead"
    if "operand" in text:
        return "was not written by torch.save as a checkpoint; nothing in it was run"
    damaged = ("central directory", "zip archive", "magic number", "ran out of input", "invalid load key", "EOF")
    if isinstance(error, EOFError | LookupError | OSError) or any(words in text for words in damaged):
        return "is damaged or not a checkpoint: truncated, or another kind of file; copy or download it again"
    return f"cannot be read as a checkpoint: {type(error).__name__}: {text.splitlines()[0] if text else 'no reason'}"


def _without_dropped(value: Any) -> Any:
    """Return ``value`` without what the stand-ins swallowed; a state dict keeps its ``_metadata``."""
    if isinstance(value, dict):
        for key in [key for key, entry in value.items() if isinstance(entry, _Dropped) or isinstance(key, _Dropped)]:
            del value[key]
        for key, entry in value.items():
            value[key] = _without_dropped(entry)
        return value
    if type(value) in (list, tuple):
        return type(value)(_without_dropped(entry) for entry in value if not isinstance(entry, _Dropped))
    return value


def _find_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    nested = (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping))
    weights = next(nested, content)
    tensors = OrderedDict((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    if not tensors:
        keys = ", ".join(repr(str(key)) for key in list(content)[:8]) or "none"
        raise CheckpointError(f"{path}: holds no weights; its keys are {keys}")
    if hasattr(weights, "_metadata"):
        tensors._metadata = weights._metadata  # type: ignore[attr-defined]  # versions of the layers' own layouts
    if all(name.startswith("module.") for name in tensors):
        consume_prefix_in_state_dict_if_present(tensors, "module.")
    return tensors


def _with_classes(meta: dict[str, Any]) -> dict[str, Any]:
    """Give classes and palette one name: mmengine keeps them in ``dataset_meta``, mmcv in capital letters."""
    inner = meta.get("dataset_meta")
    known = inner if isinstance(inner, Mapping) else {}
    for key in ("classes", "palette"):
        value = meta.get(key) or known.get(key) or meta.get(key.upper()) or known.get(key.upper())
        if value:
            meta[key] = value
    return meta
