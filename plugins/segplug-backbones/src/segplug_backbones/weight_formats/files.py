"""Weight files of other frameworks. The readers execute no code from the files."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightFormat


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
    """The pickles of Detectron and Detectron2: arrays and plain values. What asks for anything else is refused."""

    suffixes: ClassVar = (".pkl",)

    def read(self, path: Path) -> Any:
        try:
            with open(path, "rb") as file:
                content = _ArrayUnpickler(file, encoding="latin1").load()
        except _Refused as error:
            raise CheckpointError(
                f"{path}: refused: it asks for {str(error)!r}, which is code and not weights; nothing in it was run"
            ) from error
        except Exception as error:  # a damaged file can make the unpickler fail in any way
            raise CheckpointError(f"{path}: is damaged or not a pickle of arrays: {error}") from error
        for key in ("model", "blobs"):
            inner = content.get(key) if isinstance(content, Mapping) else None
            content = inner if isinstance(inner, Mapping) else content
        if not isinstance(content, Mapping):
            return content
        arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
        return {
            name: torch.from_numpy(np.ascontiguousarray(value))
            for name, value in arrays.items()
            if value.dtype != object
        }


class Safetensors(WeightFormat):
    """Files of the package safetensors: tensors by name and nothing else."""

    suffixes: ClassVar = (".safetensors",)

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise CheckpointError(
                f"{path}: reading .safetensors needs a package\n    pip install safetensors"
            ) from error
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: is damaged or not a safetensors file: {error}") from error


class _Refused(pickle.UnpicklingError):
    """A pickle asks for something that is not an array."""


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every class and function but those that arrays are made of, before it is even imported."""

    ALLOWED = re.compile(r"numpy\.(_?core\.multiarray\.(_reconstruct|scalar)|ndarray|dtype)|_codecs\.encode")

    def find_class(self, module: str, name: str) -> Any:
        if not self.ALLOWED.fullmatch(f"{module}.{name}"):
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)
