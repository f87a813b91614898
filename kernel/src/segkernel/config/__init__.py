"""Configs: YAML files, their bases, overrides from the command line, and the origin of each value.

    config = load_config("configs/my.yaml", ["optim.batch_size=4"])
    config["optim"]["batch_size"]                # an ordinary dict inside
    config.explain("optim.batch_size")           # where it was set and overridden

Loading imports no torch, and PyYAML only when a file is read.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.catalog import Catalog, display
from segkernel.config.marks import MarkedDict, mark, place_of
from segkernel.errors import ConfigError, Problem, UsageError, suggest

if TYPE_CHECKING:
    from segkernel.config.layers import Layers

__all__ = ["Config", "load_config"]


class Config(UserDict[str, Any]):
    """A resolved config: a mapping of sections.

    Args:
        raw: All layers merged, references still in it.
        data: The same with references resolved.
        name: A short name for run folders.
        source: The file or packaged file that it was read from.
        trusted: Whether it may name import paths and files; false for a config from a weights file.
    """

    data: MarkedDict
    _repr_html_ = display

    def __init__(self, raw: MarkedDict, data: MarkedDict, name: str, source: str, trusted: bool = True) -> None:
        self.raw, self.data, self.name, self.source, self.trusted = raw, data, name, source, trusted
        self.meta: MarkedDict = data.pop("_meta_", None) or MarkedDict()

    def to_yaml(self) -> str:
        """Return the resolved config as YAML that loads to the same values."""
        from segkernel.config.show import to_yaml

        return to_yaml(self.data)

    def explain(self, key: str) -> list[str]:
        """Return the value of ``key`` and its history, newest first: where it was set, and what it refers to.

        Raises:
            ConfigError: The key does not exist.
        """
        from segkernel.config.show import explain

        return explain(self.data, key)


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, catalog: Catalog | None = None
) -> Config:
    """Load a config.

    Args:
        source: A YAML file, a mapping, or a name or file that an installed config source reads.
        overrides: ``key.path=value``, ``key+=value``, ``~key`` or ``+new.key=value``, applied in order.
        catalog: Where config sources are looked up; by default, the installed plugins.

    Raises:
        ConfigError: With every error and its place.
    """
    from segkernel.config.layers import Layers
    from segkernel.config.merge import merge
    from segkernel.config.overrides import apply_overrides, declared_keys, misshapen
    from segkernel.config.references import resolve

    problems: list[Problem] = []
    catalog = catalog or Catalog.discover()
    layers = Layers(catalog, problems)
    name, origin = _add(source, layers)
    if problems:
        raise ConfigError(problems)
    raw = MarkedDict()
    for layer in layers.found:
        raw = merge(raw, layer, problems)
    raw = apply_overrides(raw, overrides, problems)
    sections = declared_keys(())
    for key in [key for key in raw if key not in (*sections, "_meta_")]:
        hint = catalog.moved(key) or suggest(key, sections)
        problems.append(Problem("unknown section", str(key), place_of(raw, key), hint))
    data = resolve(raw, problems)
    problems += misshapen(data)
    if problems:
        raise ConfigError(problems)
    return Config(raw, data, name, origin, getattr(source, "trusted", True))


def _add(source: str | Path | Mapping[str, Any], layers: Layers) -> tuple[str, str]:
    """Add the layers of ``source``; return a name and where it came from."""
    if isinstance(source, Config):
        layers.found = [source.raw]
        return source.name, source.source
    if isinstance(source, Mapping):
        layers.add(mark(source))
        return "config", ""
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise UsageError(f"a config is a file, a name or a mapping, not {source!r}")
    return layers.add_name(str(source))
