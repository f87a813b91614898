"""Config sources: where configs come from that are no YAML file by their path.

Names of a zoo, or files of another format. An entry point of the group ``segkernel.config_sources`` names a class like
`ConfigSource`; importing its module imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from segkernel import known
from segkernel.catalog import Catalog
from segkernel.errors import BrokenPluginError, ConfigError, MissingPackageError, Problem

if TYPE_CHECKING:
    from segkernel.config.layers import Layers

log = logging.getLogger(__name__)


class FoundConfig(Protocol):
    """A config that a source has.

    Args:
        name: A short name, for run directories.
        place: Where it is listed.
        path: The file that it stands in.
    """

    @property
    def name(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def path(self) -> Path: ...


class ConfigSource(Protocol):
    """Names or files that it reads as configs."""

    def __init__(self, catalog: Catalog) -> None: ...

    def find(self, name: str, asked: str = "") -> FoundConfig | Path | None:
        """Return the config that a name or path stands for; None if that is not for this source to read.

        Args:
            name: What was typed or a ``_base_`` says.
            asked: The place of that ``_base_``, for errors.

        Returns:
            A path where the config is a plain YAML file.

        Raises:
            ConfigError: The name is this source's, and ambiguous.
            MissingPackageError: The package that it names is not installed.
        """
        ...

    def add_layers(self, found: Any, layers: Layers) -> None:
        """Add what was found to ``layers``, mappings with their places, what is overridden first.

        Raises:
            ConfigError: A part of it is not found; `MissingPackageError` if its package is not installed.
        """
        ...

    def names(self) -> Iterable[str]:
        """Return every config that it has, as ``distribution::name``."""
        ...

    def unknown(self, name: str) -> list[Problem]:
        """Say that nothing has a name, with the near ones; nothing if the name is not for this source."""
        ...

    def label(self, path: Path) -> str:
        """Return what messages call one of its files; "" for other files."""
        ...


class Sources:
    """The config sources of a catalogue, imported when the first name is looked up."""

    def __init__(self, catalog: Catalog | None = None) -> None:
        self.catalog = Catalog.discover() if catalog is None else catalog

    @cached_property
    def installed(self) -> list[ConfigSource]:
        """Every source that can be imported; one that cannot is logged, and must not stop plain files."""
        found = []
        for row in self.catalog.rows_of("config_sources"):
            try:
                found.append(self.catalog.load_row(row)(self.catalog))
            except BrokenPluginError as error:
                log.warning("%s", error)
        return found

    def find(self, name: str, asked: str = "") -> tuple[ConfigSource, FoundConfig | Path] | None:
        """Return the source that has a name, and what it found; None if no source has.

        Raises:
            ConfigError: Several sources have it, or as `ConfigSource.find`.
        """
        found = [(source, hit) for source in self.installed if (hit := source.find(name, asked)) is not None]
        if len(found) > 1:
            readers = ", ".join(type(source).__name__ for source, _ in found)
            raise ConfigError(Problem(f"several config sources read {name!r}: {readers}", place=asked))
        return found[0] if found else None

    def unknown(self, name: str, asked: str = "") -> ConfigError:
        """Return the error for a name that no source has."""
        if not self.installed:
            message = f"no config is called {name!r}, and no package with configs is installed"
            hint = f"pip install {known.distribution_of_group('config_sources')}"
            return MissingPackageError(Problem(message, "", asked, hint))
        problems = [problem for source in self.installed for problem in source.unknown(name)]
        return ConfigError(problems or Problem(f"no config is called {name!r}"))

    def label(self, path: Path) -> str:
        """Return what places call a file: as its source says, else its path from here if it is below."""
        here = Path.cwd()
        labels = filter(None, (source.label(path) for source in self.installed))
        return next(labels, str(path.relative_to(here) if path.is_relative_to(here) else path))
