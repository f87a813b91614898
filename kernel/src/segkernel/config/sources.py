"""Config sources, for configs other than YAML files given by path: names of a zoo, or files of another format.

An entry point of the group ``segkernel.config_sources`` names a class like
`ConfigSource`; importing its module imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from segkernel.catalog import Catalog
    from segkernel.config.layers import Layers
    from segkernel.errors import Problem


class FoundConfig(Protocol):
    """A config that a source has.

    Args:
        name: A short name, for run directories.
        place: Where it is listed.
        path: The file that contains it.
    """

    @property
    def name(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def path(self) -> Path: ...


class ConfigSource(Protocol):
    """Names or files that it reads as configs.

    One of files of another format may have a method ``convert(found)``, which returns the config in its shortest form,
    a `MarkedDict`, and a list of what could not be carried over; ``seg-kernel import`` writes both.
    """

    def __init__(self, catalog: Catalog) -> None: ...

    def find(self, name: str, asked: str = "") -> FoundConfig | Path | None:
        """Return the config that a name or path stands for; None if this source does not handle it.

        Args:
            name: As typed or written in a ``_base_``.
            asked: The place of that ``_base_``, for errors.

        Returns:
            A path where the config is a plain YAML file.

        Raises:
            ConfigError: The name belongs to this source and is ambiguous.
            MissingPackageError: The package that it names is not installed.
        """

    def add_layers(self, found: Any, layers: Layers) -> None:
        """Add a found config to ``layers`` as mappings with their places, lowest first.

        Raises:
            ConfigError: A part of it is missing; `MissingPackageError` if its package is not installed.
        """

    def names(self) -> Iterable[str]:
        """Return every config that it has, as ``distribution::name``."""

    def unknown(self, name: str) -> list[Problem]:
        """Return the problem of an unknown name, with similar names; none if this source does not handle it."""

    def label(self, path: Path) -> str:
        """Return the name of one of its files for messages; "" for other files."""


def installed_sources(catalog: Catalog) -> list[ConfigSource]:
    """Return every source that can be imported; one that cannot is logged, so that plain files still load."""
    return [source(catalog) for _, source in catalog.load_all("config_sources")]
