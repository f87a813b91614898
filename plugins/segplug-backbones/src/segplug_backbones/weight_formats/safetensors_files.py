"""Files of the package safetensors: tensors by name, and metadata as text; several parts of one model, too."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from segkernel.errors import CheckpointError
from segkernel.files import replacing
from segkernel.interfaces.model import WeightFormat

KEY = "segkernel"
"""Entry of the file's metadata that holds ours: classes, palette, config, licence, the checksum of the weights."""
SHA256 = "weights_sha256"
PART = re.compile(r"(.+)-00001-of-(\d{5})(\.safetensors)")
"""Name of the first part of a large model, ``model-00001-of-00003.safetensors``."""


class Safetensors(WeightFormat):
    """Tensors by name; those that ``seg-kernel publish`` writes also hold classes and config, like a checkpoint.

    The first part of a model stands for all parts.
    """

    suffixes: ClassVar = (".safetensors",)

    def read(self, path: Path) -> dict[str, Any]:
        first, *others = [self._read(path.with_name(name)) for name in parts_of(path.name)]
        for other in others:
            first["state_dict"] |= other["state_dict"]
        return first

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise missing_package(path) from error
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(KEY)
                weights = OrderedDict((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file, a part of the model") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: is damaged or not a safetensors file: {error}") from error
        return {"state_dict": weights, "meta": _meta(path, text, weights) if text else {}}


def parts_of(name: str) -> list[str]:
    """Return the names of all parts of a model, given the first; any other name alone."""
    if (found := PART.fullmatch(name)) is None:
        return [name]
    stem, count, suffix = found.groups()
    return [f"{stem}-{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1)]


def write(path: Path, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write weights and metadata, which must be JSON values; the same content gives the same bytes.

    Raises:
        CheckpointError: When safetensors is not installed, or the file cannot be written.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise missing_package(path) from error
    # Copies, as tensors that share memory cannot be saved.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in weights.items()}
    text = json.dumps({**meta, SHA256: checksum(tensors)}, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary, {KEY: text})
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def missing_package(path: Path) -> CheckpointError:
    """Return the error for a missing package safetensors."""
    return CheckpointError(f"{path}: .safetensors files need a package\n    pip install safetensors")


def checksum(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values, in the order of the names."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _meta(path: Path, text: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata {KEY!r} is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path}: its metadata {KEY!r} is a {type(meta).__name__}, not a mapping")
    wanted = meta.get(SHA256)
    if wanted is not None and wanted != checksum(weights):
        raise CheckpointError(f"{path}: is damaged: its weights do not match their checksum; download it again")
    return meta
