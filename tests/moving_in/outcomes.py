"""What the import of a config of MMSegmentation gives, compared with the packaged experiment of its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segkernel.config import load_config
from segkernel.config.marks import to_builtin
from segplug_heads.configs.zoo import find_zoos
from segplug_heads.moving_in.importing import import_config, published_names, resolved


def experiments(folder: Path, only: str = "") -> Iterator[Path]:
    """Yield the configs of a folder, without the parts that they are composed of."""
    for path in sorted(folder.rglob("*.py")):
        if "_base_" not in path.parts and only in str(path):
            yield path


def outcome(path: Path) -> tuple[str, list[str], dict[str, Any]]:
    """Return ``equal``, ``differs`` or ``not packaged``, what differs, and the resolved import."""
    imported = import_config(path)
    found = to_builtin(resolved(imported).data)
    names = published_names(path.stem, find_zoos())
    if not names:
        return "not packaged", [], found
    packaged = to_builtin(load_config(imported.base if imported.base in names else names[0]).data)
    lines = [*differences(found, packaged, ""), *(f"note: {note}" for note in imported.notes)]
    return "equal" if found == packaged else "differs", lines, found


def differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    """Yield what differs between two plain values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            yield from differences(ours.get(key, "absent"), theirs.get(key, "absent"), f"{path}.{key}".lstrip("."))
    elif ours != theirs:
        yield f"{path} is {json.dumps(ours)[:150]}, packaged {json.dumps(theirs)[:150]}"


def digest(config: Mapping[str, Any]) -> str:
    """Return a short digest of a resolved config, without the order in which plugins are preferred."""
    config = {key: value for key, value in config.items() if key != "plugins"}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
