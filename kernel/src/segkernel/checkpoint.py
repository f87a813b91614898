"""Checkpoint files: written atomically, read without running code from them.

save("latest.pth", {"state_dict": model.state_dict(), "meta": {"classes": ["road", "sky"]}})
model.load_state_dict(load("latest.pth")["state_dict"])     # or segkernel.weights.load_into, which reports what fits
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import tarfile
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segkernel.building import check
from segkernel.catalog import Catalog
from segkernel.config.sections import Metadata
from segkernel.errors import CheckpointError, did_you_mean, worker_crash_of
from segkernel.files import replacing

if TYPE_CHECKING:
    from segkernel.interfaces.model import WeightFormat

log = logging.getLogger(__name__)

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
"""Suffixes of torch's files; a file with another suffix may hold weights, too, and is tried when given."""
FORMATS = "weight_formats"
"""The entry-point group of formats that locate, read and convert third-party weights."""
PLAIN = (str, int, float, bool, type(None))
"""Types that may be saved in addition to tensors, lists, tuples and dicts."""

# ---------------------------------------------------------------- saving


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: a kill at any time leaves the old file or the complete new one.

    Raises:
        CheckpointError: When a value is not a tensor, plain value or container of these (its key is named, nothing is
            written), or when the file cannot be written (the old file is kept).
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
        kept = "the existing file is unchanged" if path.is_file() else "no file was created"
        raise CheckpointError(f"{path}: cannot be written: {_reason(error)}; {kept}") from error


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut; not every file system allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
        raise CheckpointError(f"{message}; convert it to a tensor, str, int, float, bool, None, list, tuple or dict")


def _describe(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__} {str(value)[:60]!r}"


def _reason(error: BaseException) -> str:
    """Return the system's error message: torch wraps a failed write in an error without the reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


# ---------------------------------------------------------------- loading


def load(path: str | Path) -> dict[str, Any]:
    """Read a segkernel checkpoint, a bare state dict, or a file of a weight format, such as MMSegmentation's.

    Args:
        path: A file, or a name or an address that a weight format locates.

    Returns:
        The file's entries, tensors on the CPU, with at least ``state_dict`` (name -> tensor), ``meta`` (``classes``
        and ``palette`` by these names if the file has them) and ``path``.

    Raises:
        CheckpointError: When the file is missing, damaged, not a checkpoint, or holds anything but plain data; no
            code in it is ever run.
        ComponentError: When the package that reads such files, or locates this name, is not installed.
    """
    path = locate(path)
    _check_file(path)
    content = _read(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint or a state dict")
    if "shards" in content:  # the name of a folder, where several processes have written the tensors
        content = Catalog.current().load(FORMATS, "ShardedCheckpoint")().read(path)
    meta: dict[str, Any] = {}
    for _, other in Catalog.current().load_all(FORMATS) if "position" not in content else ():  # not of our runs
        content, meta = other().arrange(content), meta | other().describe(path)
    meta |= found if isinstance(found := content.get("meta"), Mapping) else {}
    return {key: value for key, value in content.items() if not isinstance(value, Tensor)} | {
        "state_dict": _find_weights(content, path),
        "meta": meta | _classes_in(meta, path),
        "path": str(path),
    }


def locate(source: str | Path) -> Path:
    """Return the file that ``source`` stands for: a path, or a name, address or folder that a weight format locates.

    Raises:
        CheckpointError: A name or an address that no installed format knows, or that cannot be obtained.
        ComponentError: The package for names and addresses is missing, or two formats locate the source.
    """
    catalog, text = Catalog.current(), str(source)
    is_file = Path(source).is_file()
    found = None if is_file else catalog.choose(FORMATS, text, lambda each: each().locates(text))
    if found is None and "://" in text and not is_file:
        raise catalog.why_none(FORMATS, text) or CheckpointError(f"{text}: no weight format locates this address")
    return Path(source) if found is None else found().locate(text)  # a missing file is reported when it is opened


def reader_of(suffix: str) -> WeightFormat | None:
    """Return the weight format that reads files of a suffix, None when no installed one does."""
    found = Catalog.current().choose(FORMATS, suffix, lambda each: suffix.lower() in each.suffixes)
    return None if found is None else found()


def _check_file(path: Path) -> None:
    if path.is_file():
        return
    what, folder = ("is a folder", path) if path.is_dir() else ("no such file", path.parent)
    names = sorted(entry.name for entry in folder.glob("*") if entry.suffix in SUFFIXES)
    near = names[:5] if path.is_dir() else did_you_mean(path.name, names)
    raise CheckpointError(f"{path}: {what}" + (f"; did you mean {' or '.join(near)}?" if near else ""))


def _read(path: Path) -> Any:
    """Read plain data that torch wrote; any other file is read by the weight format of its suffix."""
    try:
        return read_torch(path)
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        if reader := reader_of(path.suffix):
            return reader.read(path)
        asks_for_more = path.suffix not in SUFFIXES or isinstance(error, pickle.UnpicklingError)
        missing = Catalog.current().why_none(FORMATS, str(path)) if asks_for_more else None
        damaged = "it is damaged or not a weights file; nothing in it was run"
        reason = _reason(error) if isinstance(error, PermissionError) else damaged
        raise missing or CheckpointError(f"{path}: cannot be read: {reason}") from error


def read_torch(path: Path) -> Any:
    """Return the content of a file of `torch.save`, tensors on the CPU; runs no code from it, in any torch from 2.4 on.

    Raises:
        Exception: Any error of torch, for a file that is damaged or holds more than plain data; ValueError for one
            whose checksums do not match.
    """
    if tarfile.is_tarfile(path) or path.suffix.lower() == ".safetensors":
        # torch before 2.6 unpacks the one unconditionally; later versions read the other, but not its metadata
        raise ValueError("a tar archive or safetensors")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, and reads without comparing them
            if (entry := archive.testzip()) is not None:
                raise ValueError(f"{entry} does not match its checksum")
    with LOADING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd files; the error has what matters
        # Before 2.6 torch only warns of a program, then loads it, which runs its code.
        warnings.filterwarnings("error", message=".*TorchScript")
        return torch.load(path, map_location="cpu", weights_only=True)


LOADING = threading.RLock()
"""Guards warning filters and torch's safe globals, which are shared by all threads of the process."""


def _find_weights(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    weights = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping)), content)
    tensors = OrderedDict((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    if not tensors:
        keys = ", ".join(repr(str(key)) for key in list(content)[:8]) or "none"
        raise CheckpointError(f"{path}: holds no weights; its keys are {keys}")
    if hasattr(weights, "_metadata"):
        tensors._metadata = weights._metadata  # type: ignore[attr-defined]  # versions of the layers' layouts
    return tensors


def _classes_in(meta: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return classes and palette; an invalid list is left out with a warning, as the weights are still usable."""
    found = {key: meta.get(key) for key in ("classes", "palette")}
    for key, value in found.items():
        if problems := check(Metadata, {key: value}):
            log.warning("%s: ignored its %s: %s", path, key, problems[0].message)
            found[key] = None
    return {key: value for key, value in found.items() if value or key in meta}
