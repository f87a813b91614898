"""The config source of configs of MMSegmentation: ``seg-kernel run my_config.py`` imports it as it is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segkernel.catalog import Catalog
from segkernel.config.layers import Layers
from segkernel.errors import ConfigError, Problem
from segplug_heads.configs.source import FILES
from segplug_heads.configs.zoo import find_zoos
from segplug_heads.former_names import GUIDE
from segplug_heads.moving_in.recognition import is_theirs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FormerFile:
    """A config file of MMSegmentation."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)


class FormerConfigs:
    """Reads Python files as configs of MMSegmentation, without running them, and YAML and JSON files with its sections.

    Args:
        catalog: Whose zoos and components are known.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def find(self, name: str, asked: str = "") -> FormerFile | None:
        """Return the file; None for what is neither Python nor YAML or JSON with sections of MMSegmentation's.

        Raises:
            ConfigError: There is no such file.
        """
        path = Path(name)
        if path.suffix not in FILES or "::" in name:
            return None
        if path.suffix == ".py" and not path.exists():
            raise ConfigError(self._no_file(path, asked))
        return FormerFile(path) if path.suffix == ".py" or is_theirs(path) else None

    def add_layers(self, found: FormerFile, layers: Layers) -> None:
        """Add the imported config; what could not be carried over is logged."""
        from segplug_heads.moving_in.importing import import_config

        imported = import_config(found.path, self.catalog)
        log.info("%s: read as a config of MMSegmentation %s (docs: %s)", found.path, imported.version, GUIDE)
        for note in imported.notes:
            log.warning("%s", note)
        layers.add(imported.layer, (found.path.absolute(),))

    def names(self) -> Iterator[str]:
        """Return nothing: files are not listed."""
        return iter(())

    def unknown(self, name: str) -> list[Problem]:
        """Return nothing: other names are not files of this source."""
        return []

    def label(self, path: Path) -> str:
        """Return "", as files have their paths as names."""
        return ""

    def _no_file(self, path: Path, asked: str) -> Problem:
        from segplug_heads.moving_in.importing import published_names

        name = next(iter(published_names(path.stem, find_zoos(self.catalog))), "")
        hint = f"this one is packaged, without .py: {name}" if name else "seg-kernel models lists the packaged ones"
        return Problem(f"{path}: no such file", "", asked, hint)
