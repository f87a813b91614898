"""The config source of this package: names of the zoos of all installed packages.

    ZooSource(Catalog.discover()).find("pspnet_r50-d8_4xb2-40k_cityscapes-512x1024")

A name is that of a whole config, of a published experiment, an alias, or MODEL_SCHEDULE_DATA; or
``distribution::name``, or ``distribution::path/in/its/zoo.yaml``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from segkernel.catalog import Catalog
from segkernel.config.layers import Layers
from segkernel.config.packaged import LOCAL
from segkernel.errors import Problem
from segplug_heads.configs.experiments import Experiment, add_layers, find_experiment, list_experiments, unknown
from segplug_heads.configs.zoo import find_zoos, label_of

FILES = (".yaml", ".yml", ".json", ".py")
"""Suffixes of config files, which no name ends with."""


class ZooSource:
    """Looks names up in ``./local_configs`` and then in the zoo of every installed package.

    Args:
        catalog: Whose zoos are read.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.zoos = find_zoos(catalog)

    def find(self, name: str, asked: str = "") -> Experiment | Path | None:
        """Return the experiment, or the file of a whole config; None if no zoo has the name.

        Raises:
            ConfigError: As `find_experiment`.
        """
        if "::" not in name and ("/" in name or os.sep in name or name.endswith(FILES)):
            return None
        found = find_experiment(name, self.zoos, asked)
        return found.path if found is not None and found.family is None else found

    def add_layers(self, found: Experiment, layers: Layers) -> None:
        """Add the data part, the schedule part, the family's base, the variant, and the experiment's own settings."""
        add_layers(found, layers, self.zoos)

    def names(self) -> Iterator[str]:
        """Yield whole configs, data parts and published experiments of packages, ``distribution::name``."""
        for zoo in self.zoos:
            if zoo.name != LOCAL:
                yield from (f"{zoo.name}::data/{name}.yaml" for name in zoo.files("data"))
                yield from (f"{zoo.name}::{entry.name}" for entry in list_experiments([zoo]))

    def unknown(self, name: str) -> list[Problem]:
        """Return the problem of a name that no zoo has, with similar names."""
        return unknown(name, self.zoos)

    def label(self, path: Path) -> str:
        """Return ``distribution::path`` for a file of a package, its path from here for one of ``local_configs``."""
        return label_of(path, self.zoos)
