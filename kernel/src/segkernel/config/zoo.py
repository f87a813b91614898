"""The zoo: folders of configs in installed packages, and ``./local_configs`` before them.

A zoo folder holds whole configs (``quickstart.yaml``), model families (``families/pspnet.yaml``), data parts
(``data/cityscapes-512x1024.yaml``) and schedule parts (``schedules.yaml``). Nothing is imported to read them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from segkernel.config.marks import MarkedDict, brief
from segkernel.config.merge import unknown_key
from segkernel.config.text import read_file
from segkernel.errors import ConfigError, Problem

LOCAL = "local_configs"
_PROVIDERS = {"model": "segplug-heads", "schedule": "segplug-heads", "data": "segplug-datasets"}
_FAMILY_KEYS = ("_meta_", "base", "variants", "experiments")


class MissingPackageError(ConfigError):
    """A config names something that comes with a package that is not installed."""

    exit_code = 3


@dataclass(frozen=True)
class Zoo:
    """A folder of configs.

    Args:
        name: The distribution that brings it, or ``local_configs``.
        folder: Where it lies.
    """

    name: str
    folder: Path

    def label(self, path: Path) -> str:
        """Return what places call a file of this zoo; "" for a file outside."""
        if not path.is_relative_to(self.folder):
            return ""
        relative = path.relative_to(self.folder).as_posix()
        return f"{LOCAL}/{relative}" if self.name == LOCAL else f"{self.name}::{relative}"

    def files(self, folder: str = ".") -> dict[str, Path]:
        """Return the YAML files of a folder by their stem."""
        found = sorted((self.folder / folder).glob("*.yaml"))
        return {path.stem: path for path in found if path.name != "schedules.yaml"}

    def families(self) -> list[Family]:
        """Read all family files."""
        return [read_family(self, path) for path in self.files("families").values()]


@dataclass(frozen=True)
class Family:
    """A family file: a base, its variants, and the experiments published with them."""

    zoo: Zoo
    path: Path
    data: MarkedDict
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> str:
        """The stem of the file."""
        return self.path.stem

    def section(self, key: str) -> MarkedDict:
        """Return one of the maps of the file, empty if it has none."""
        value = self.data.get(key)
        return value if isinstance(value, MarkedDict) else MarkedDict()

    def models(self) -> dict[str, str]:
        """Return variant names by model name: the variant's, and with the family's name before it."""
        variants = list(self.section("variants"))
        return {f"{self.name}_{name}": name for name in variants} | {str(name): name for name in variants}


def find_zoos(catalog: Any = None) -> list[Zoo]:
    """Return ``./local_configs``, if it is there, and then the zoo of every usable distribution."""
    if catalog is None:
        from segkernel.catalog import Catalog

        catalog = Catalog.discover()
    local = Path(LOCAL).absolute()
    zoos = [Zoo(LOCAL, local)] if local.is_dir() else []
    folders = ((row.distribution, _folder(row.value)) for row in catalog.rows_of("zoo"))
    return zoos + [Zoo(name, folder) for name, folder in folders if folder is not None]


def pick_zoo(name: str, zoos: list[Zoo]) -> Zoo | None:
    """Return the zoo of a distribution, however its name is written."""
    wanted = name.lower().replace("_", "-").replace(".", "-")
    return next((zoo for zoo in zoos if wanted in (zoo.name, zoo.name.replace("_", "-"))), None)


def provider(kind: str) -> str:
    """Return the first-party distribution that brings the parts of a kind: model, schedule or data."""
    return _PROVIDERS[kind]


def read_family(zoo: Zoo, path: Path) -> Family:
    """Read a family file; it is read again only after it has changed."""
    stat = path.stat()
    return _read_family(zoo, path, stat.st_mtime_ns, stat.st_size)


def read_schedules(zoo: Zoo, problems: list[Problem]) -> dict[str, tuple[Any, MarkedDict]]:
    """Return the schedule parts of a zoo: name to (key, the map that holds it)."""
    path = zoo.folder / "schedules.yaml"
    if not path.is_file():
        return {}
    found: dict[str, tuple[Any, MarkedDict]] = {}
    for name, part in (read_file(path, zoo.label(path), problems) or {}).items():
        if isinstance(part, MarkedDict) and name != "_meta_":
            found |= {str(key): (key, part) for key in part}
    return found


@lru_cache(maxsize=1024)
def _read_family(zoo: Zoo, path: Path, changed: int, size: int) -> Family:
    problems: list[Problem] = []
    label = zoo.label(path)
    data = read_file(path, label, problems) or MarkedDict()
    for key, value in data.items():
        place = data.places.get(key)
        if key not in _FAMILY_KEYS:
            problems.append(unknown_key(key, _FAMILY_KEYS, "", place, "unknown key of a family file"))
        elif not isinstance(value, MarkedDict):
            problems.append(Problem(f"must be a mapping, not {brief(value)}", key, str(place or label)))
    return Family(zoo, path, data, tuple(problems))


def _folder(value: str) -> Path | None:
    """Return the folder that an entry point names, ``package:folder``, without importing the package."""
    package, _, inside = value.partition(":")
    top, _, below = package.strip().partition(".")
    spec = importlib.util.find_spec(top)  # of a top-level package: finds it, imports nothing
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root, *filter(None, below.split(".")), *filter(None, inside.strip().split("/")))
        if folder.is_dir():
            return folder
    return None
