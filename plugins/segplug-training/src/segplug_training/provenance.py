"""Fingerprints of what a run depends on besides its config: its data and the git repository it is started in."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from segkernel.hookspecs import Run

READ = 16
"""Number of files of a set whose contents are hashed; of the others name and size are."""


def fingerprints(run: Run) -> dict[str, Any]:
    """Return the fingerprint of each data set of a run, by ``train``, ``val`` and ``test``."""
    parts: dict[str, Any] = {name: getattr(run, f"{name}_set", None) for name in ("train", "val", "test")}
    return {name: fingerprint(part.dataset) for name, part in parts.items() if hasattr(part, "dataset")}


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Return number of samples, classes and a checksum: of ``files`` if the set has them, else of some samples."""
    files: Sequence[Any] | None = getattr(dataset, "files", None)
    digest = hashlib.sha256()
    indices = np.linspace(0, len(dataset) - 1, min(READ, len(dataset))).astype(int).tolist()
    if files is None:
        _add_samples(digest, dataset, sorted({*indices[:2], *indices[-2:]}))
    else:
        _add_files(digest, files, set(indices))
    return {"samples": len(dataset), "classes": list(dataset.classes), "sha256": digest.hexdigest()}


def _add_samples(digest: Any, dataset: Any, indices: Sequence[int]) -> None:
    for index in indices:
        try:
            sample = dataset[index]
        except Exception as error:  # the loader reports it when training reaches the sample
            digest.update(type(error).__name__.encode())
            continue
        for value in (sample.image, *(getattr(each, "array", None) for each in sample.fields.values())):
            if isinstance(value, np.ndarray):
                digest.update(repr((value.shape, value.dtype.str)).encode() + np.ascontiguousarray(value).tobytes())


def _add_files(digest: Any, files: Sequence[Any], read: set[int]) -> None:
    for index, entry in enumerate(files):
        for part in entry if isinstance(entry, (tuple, list)) else [entry]:
            path = Path(part) if isinstance(part, (str, Path)) and Path(part).is_file() else None
            digest.update(repr((path.name, path.stat().st_size) if path else part).encode("utf-8", "replace"))
            if path and index in read:
                digest.update(path.read_bytes())


def git_state(folder: Path | None = None) -> dict[str, str] | None:
    """Return the commit of a folder and a checksum of uncommitted changes; None outside a repository."""
    commit, changes = (_git(folder, *words) for words in (("rev-parse", "HEAD"), ("diff", "HEAD")))
    if commit is None:
        return None
    changed = hashlib.sha256(changes).hexdigest()[:16] if changes else "none"
    return {"commit": commit.decode().strip(), "changes": changed}


def _git(folder: Path | None, *words: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def compare(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> list[str]:
    """Return a line for each entry that differs between two records."""
    lines: list[str] = []
    for key in dict.fromkeys((*before, *now)):
        old, new, name = before.get(key), now.get(key), f"{path}.{key}" if path else key
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += compare(old, new, name)
        elif old != new:
            lines.append(f"{name}: {_shown(new)}, was {_shown(old)}")
    return lines


def _shown(value: Any) -> str:
    return "not there" if value is None else str(value)
