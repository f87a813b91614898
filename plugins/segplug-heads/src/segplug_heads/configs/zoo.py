"""The zoo: folders of configs in installed packages, and ``./local_configs`` before them.

A zoo folder holds whole configs (``quickstart.yaml``), model families (``families/pspnet.yaml``), data parts
(``data/cityscapes-512x1024.yaml``) and schedule parts (``schedules.yaml``). No package is imported to read them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from segkernel.catalog import Catalog
from segkernel.config.marks import MarkedDict, place_of, summarize
from segkernel.config.packaged import LOCAL, folders
from segkernel.config.text import read_file
from segkernel.errors import MissingPackageError, Problem, did_you_mean, suggest
from segplug_heads.former_names import OTHER_SCOPES, SAME_SCOPES

PROVIDERS = {"model": "segplug-heads", "schedule": "segplug-heads", "data": "segplug-datasets"}
"""The first-party distribution with the parts of a kind."""

_TABLES = ("schedules.yaml", "weights.yaml")
_FAMILY_KEYS = ("_meta_", "base", "variants", "aliases", "experiments")


@dataclass(frozen=True)
class Zoo:
    """A folder of configs.

    Args:
        name: Its distribution, or ``local_configs``.
        folder: Folder of the zoo's files.
    """

    name: str
    folder: Path

    def files(self, folder: str = ".") -> dict[str, Path]:
        """Return the YAML files of a folder by their stem."""
        found = sorted((self.folder / folder).glob("*.yaml"))
        return {path.stem: path for path in found if path.name not in _TABLES}

    def families(self, holding: str = "") -> list[Family]:
        """Read the family files whose text contains ``holding``; unchanged ones come from the cache."""
        paths = [path for path in self.files("families").values() if holding.encode() in path.read_bytes()]
        return [_read_family(path, label_of(path, [self]), path.stat()) for path in paths]


@dataclass(frozen=True)
class Family:
    """A family file: a base, its variants, and the experiments published with them."""

    path: Path
    data: MarkedDict
    problems: tuple[Problem, ...]

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
        names = list(self.section("variants"))
        return {f"{self.name}_{name}": name for name in names} | {str(name): name for name in names}


def find_zoos(catalog: Catalog | None = None) -> list[Zoo]:
    """Return ``./local_configs``, if it is there, and then the zoo of every usable distribution."""
    return [Zoo(name, folder) for name, folder in folders(catalog).items()]


def label_of(path: Path, zoos: list[Zoo]) -> str:
    """Return what places call a file of a package, ``distribution::path``, or of ``local_configs``; "" for others."""
    for zoo in zoos:
        if path.is_relative_to(zoo.folder):
            inside = path.relative_to(zoo.folder).as_posix()
            return f"{LOCAL}/{inside}" if zoo.name == LOCAL else f"{zoo.name}::{inside}"
    return ""


def packaged(text: str, zoos: list[Zoo], asked: str = "") -> tuple[Zoo, Path]:
    """Return the zoo and the file that ``distribution::path`` names.

    Raises:
        MissingPackageError: The distribution is not installed, or has no configs.
    """
    name, _, inside = text.partition("::")
    wanted = name.lower().replace("_", "-")
    for zoo in zoos:
        if wanted == zoo.name.replace("_", "-"):
            return zoo, Path(os.path.normpath(zoo.folder / inside))
    near = did_you_mean(wanted, [zoo.name for zoo in zoos])
    hint = f"did you mean {near[0]}::{inside}?" if near else f"pip install {name}"
    if wanted in (*SAME_SCOPES, *OTHER_SCOPES):  # a package index has strangers of such names
        hint = f"names have no scope here: omit {name}:: to search all installed packages"
    raise MissingPackageError(Problem(f"{text}: no package {name} with configs is installed", "", asked, hint))


def read_schedules(zoo: Zoo, problems: list[Problem]) -> dict[str, MarkedDict]:
    """Return the schedule parts of a zoo by name."""
    path = zoo.folder / "schedules.yaml"
    mapping = read_file(path, label_of(path, [zoo]), problems) if path.is_file() else None
    maps = [part for key, part in (mapping or {}).items() if key != "_meta_" and isinstance(part, MarkedDict)]
    return {str(name): group[name] for group in maps for name in group if isinstance(group[name], MarkedDict)}


@lru_cache(maxsize=1024)
def _read_family(path: Path, label: str, stat: os.stat_result) -> Family:
    problems: list[Problem] = []
    data = read_file(path, label, problems) or MarkedDict()
    for key, value in data.items():
        place = place_of(data, key)
        if key not in _FAMILY_KEYS:
            problems.append(Problem("unknown key of a family file", str(key), place, suggest(key, _FAMILY_KEYS)))
        elif not isinstance(value, MarkedDict):
            problems.append(Problem(f"must be a mapping, not {summarize(value)}", str(key), place))
        elif key in ("variants", "experiments"):
            for name in [name for name in value if not isinstance(value[name], MarkedDict | None)]:
                message = f"must be a mapping or nothing, not {summarize(value[name])}"
                problems.append(Problem(message, f"{key}.{name}", place_of(value, name)))
        elif key == "aliases":
            known = data.get("experiments") or ()
            for name in [name for name in value if value[name] not in known]:
                hint = suggest(str(value[name]), known)
                problems.append(
                    Problem("names no experiment of this file", f"aliases.{name}", place_of(value, name), hint)
                )
    return Family(path, data, tuple(problems))
