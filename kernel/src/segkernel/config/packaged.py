"""Folders of packaged configs: the entry points of ``segkernel.zoo``, and ``./local_configs`` before them.

No package is imported to find its folder. A config source interprets the files in it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from segkernel.catalog import Catalog

LOCAL = "local_configs"


def folders(catalog: Catalog | None = None) -> dict[str, Path]:
    """Return the folders by distribution; `LOCAL` comes first, if it exists."""
    rows = (Catalog.discover() if catalog is None else catalog).rows_of("zoo")
    found = {LOCAL: Path(LOCAL).absolute()} | {row.distribution: _folder(row.value) for row in rows}
    return {name: folder for name, folder in found.items() if folder is not None and folder.is_dir()}


def _folder(value: str) -> Path | None:
    """Return the folder that an entry point names, ``package:folder``, without importing the package."""
    package, _, inside = value.partition(":")
    top, _, below = package.strip().partition(".")
    spec = importlib.util.find_spec(top)  # imports nothing for a top-level package
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root, *filter(None, below.split(".")), *filter(None, inside.strip().split("/"))).absolute()
        if folder.is_dir():
            return folder
    return None
