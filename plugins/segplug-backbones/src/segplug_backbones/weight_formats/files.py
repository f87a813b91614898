"""Weight files of other frameworks. The readers execute no code from the files."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from segkernel.checkpoint import LOADING
from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightFormat
from segplug_backbones.weight_formats.inert import ARRAYS, Dictionary, Dropped, stand_ins, to_plain


class NumpyArchive(WeightFormat):
    """Arrays by name, as JAX models are published; archives that hold objects are refused."""

    suffixes: ClassVar = (".npz",)

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path}: is damaged, or holds more than arrays: {error}") from error


class DetectronPickle(WeightFormat):
    """Pickles of arrays, tensors and plain values, such as Detectron's weights. Anything else in one is refused."""

    suffixes: ClassVar = (".pkl",)

    def read(self, path: Path) -> Any:
        try:
            with open(path, "rb") as file:
                content = to_plain(_ArrayUnpickler(file, encoding="latin1").load())
        except _Refused as error:
            raise CheckpointError(
                f"{path}: refused: it asks for {str(error)!r}, which is code and not weights; nothing in it was run"
            ) from error
        except Exception as error:  # a damaged file can make the unpickler fail in any way
            raise CheckpointError(f"{path}: is damaged or not a pickle of arrays: {error}") from error
        for key in ("model", "blobs"):
            inner = content.get(key) if isinstance(content, Mapping) else None
            content = inner if isinstance(inner, Mapping) else content
        if not isinstance(content, Mapping):  # results of a test, for `seg-kernel compare`
            return content
        return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


class _Refused(pickle.UnpicklingError):
    """A pickle asks for something that is not an array."""


class _ArrayUnpickler(pickle.Unpickler):
    """Gives stand-ins for what arrays and tensors are made of, and refuses every other class and function."""

    def find_class(self, module: str, name: str) -> Any:
        found = _STAND_INS.get(f"{module}.{name}")
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found


class _Storage(Dropped):
    """``torch.storage._load_from_bytes``: the numbers of a tensor, which torch reads without running code."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        with LOADING:
            return torch.load(io.BytesIO(arguments[0]), map_location="cpu", weights_only=True)


class _Tensor(Dropped):
    """``torch._utils._rebuild_tensor_v2``; torch refuses a size beyond the storage."""

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        storage, offset, size, stride = arguments[:4]
        values = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)
        fits = values.nbytes <= storage._untyped_storage.nbytes()  # a stride of 0 may claim any size
        return values.clone() if fits else values.new_empty(0)


_STAND_INS = stand_ins(
    ARRAYS
    | {
        "collections.OrderedDict": Dictionary,
        "torch._utils._rebuild_tensor_v2": _Tensor,
        "torch.storage._load_from_bytes": _Storage,
    }
)
