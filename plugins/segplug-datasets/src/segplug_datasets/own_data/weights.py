"""Weights that are already on this machine: a file, or a cached download. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

from segkernel.config.packaged import folders
from segkernel.config.text import read_file
from segkernel.files import cache_folder


def find_weights(source: str) -> str | None:
    """Return the file of weights on this machine; None if there is none.

    Args:
        source: A file, an address, or a name in a zoo's ``weights.yaml``.
    """
    if "://" not in source:
        return source if Path(source).is_file() else None
    address = source if source.startswith(("http://", "https://")) else _address(source)
    name = unquote(urlparse(urldefrag(address).url).path).rpartition("/")[2]
    if not name:
        return None
    kept = sorted((cache_folder() / "weights").glob(f"*/{name}"))
    return next((str(path) for path in [*kept, *(place / name for place in _places())] if path.is_file()), None)


def _address(name: str) -> str:
    for folder in folders().values():
        path = folder / "weights.yaml"
        table: dict[str, Any] = dict((read_file(path, str(path), []) if path.is_file() else None) or {})
        if entry := table.get(name):
            return str(entry["url"] if isinstance(entry, Mapping) else entry)
    return ""


def _places() -> list[Path]:
    """Return other folders with downloads: that of torch's hub, ``pretrain``, and the current folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch = Path(os.environ.get("TORCH_HOME") or cache / "torch")
    return [torch / "hub" / "checkpoints", Path("pretrain"), Path()]
