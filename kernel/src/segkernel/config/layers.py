"""Config files and their bases: ``_base_`` chains as a list of layers to merge in order."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from segkernel import known
from segkernel.catalog import Catalog
from segkernel.config.marks import MarkedDict, as_list, place_of, summarize
from segkernel.config.sources import ConfigSource, FoundConfig, installed_sources
from segkernel.config.text import read_file
from segkernel.errors import ConfigError, MissingPackageError, Problem, suggest

YAML = (".yaml", ".yml")
_MOST_BASES, _LONGEST_CHAIN = 500, 50  # far above any config


class Layers:
    """Collects the layers of a config, lowest first; a base reached twice is included once, at its first position.

    Args:
        catalog: Where config sources are looked up.
        problems: Errors are added here.
    """

    def __init__(self, catalog: Catalog, problems: list[Problem]) -> None:
        self.catalog, self.problems = catalog, problems
        self.found: list[MarkedDict] = []
        self._seen: set[Path] = set()
        self._count = 0

    @cached_property
    def sources(self) -> list[ConfigSource]:
        """The config sources, imported when the first name is looked up."""
        return installed_sources(self.catalog)

    def add_file(self, path: Path, asked: str = "", chain: tuple[Path, ...] = ()) -> None:
        """Add a file and all its bases; ``asked`` is the place that names it."""
        path = Path(os.path.normpath(path.absolute()))
        label = self.label(path)
        if path in chain:
            circle = " -> ".join(self.label(link) for link in (*chain[chain.index(path) :], path))
            self.problems.append(Problem(f"a base includes itself: {circle}", "_base_", asked))
        elif not path.exists():
            self.problems.append(_no_file(path, label, asked))
        elif path not in self._seen:
            self._seen.add(path)
            mapping = read_file(path, label, self.problems)
            if mapping is not None:
                self.add(mapping, (*chain, path))

    def add(self, mapping: MarkedDict, chain: tuple[Path, ...] = ()) -> None:
        """Add a mapping after the bases that it names; ``chain`` ends with the file it was read from."""
        for index, name in enumerate(bases := as_list(mapping, "_base_")):
            asked = place_of(bases, index)
            self._count += 1
            if self._count > _MOST_BASES or len(chain) > _LONGEST_CHAIN:
                raise ConfigError(Problem("includes too many base configs", "_base_", asked))
            if not isinstance(name, str) or not name:
                message = f"a base is a path or a packaged name, not {summarize(name)}"
                self.problems.append(Problem(message, "_base_", asked))
            else:
                self._add_base(name, asked, chain)
        self.found.append(mapping.without("_base_"))

    def add_name(self, name: str, asked: str = "", chain: tuple[Path, ...] = ()) -> tuple[str, str]:
        """Add a file, by its path relative to the one that names it, or a config that a source has under this name.

        Returns:
            A short name, and where the config is listed.

        Raises:
            ConfigError: No config has this name, or a part is missing.
        """
        path = (chain[-1].parent if chain else Path()) / Path(name).expanduser()
        is_yaml = path.suffix in YAML and "::" not in name
        hit = self._find(str(path), asked) if path.exists() else None
        if not (hit or is_yaml or path.is_file()):  # a folder of results may have the name of a config
            hit = self._find(name, asked)
        if hit is None:
            if not (is_yaml or path.exists() or "/" in name or os.sep in name):
                raise self._unknown(name, asked)
            self.add_file(path, asked, chain)
            return path.stem, name
        source, found = hit
        if isinstance(found, Path):
            self.add_file(found, asked, chain)
            return found.stem, self.label(found)
        if found.path in chain:
            self.add_file(found.path, asked, chain)  # reports that it includes itself
        else:
            source.add_layers(found, self)
        return found.name, found.place

    def label(self, path: Path) -> str:
        """Return a file's name in messages: its source's label, else its path, relative to the working directory."""
        here = Path.cwd()
        labels = filter(None, (source.label(path) for source in self.sources))
        return next(labels, str(path.relative_to(here) if path.is_relative_to(here) else path))

    def _find(self, name: str, asked: str) -> tuple[ConfigSource, FoundConfig | Path] | None:
        """Return the source that finds a name, and its result; None if none does."""
        found = [(source, hit) for source in self.sources if (hit := source.find(name, asked)) is not None]
        if len(found) > 1:
            readers = ", ".join(type(source).__name__ for source, _ in found)
            raise ConfigError(Problem(f"several config sources read {name!r}: {readers}", place=asked))
        return found[0] if found else None

    def _unknown(self, name: str, asked: str) -> ConfigError:
        """Return the error for a name that no source has."""
        problem = Problem(f"no config is called {name!r}")
        if self.sources:
            return ConfigError([p for source in self.sources for p in source.unknown(name)] or problem)
        message = f"{problem.message}, and no package with configs is installed"
        return MissingPackageError(Problem(message, "", asked, f"pip install {known.provider_of('config_sources')}"))

    def _add_base(self, name: str, asked: str, chain: tuple[Path, ...]) -> None:
        try:
            self.add_name(name, asked, chain)
        except MissingPackageError:
            raise
        except ConfigError as error:
            self.problems += [replace(problem, path="_base_", place=asked) for problem in error.problems]


def _no_file(path: Path, label: str, asked: str) -> Problem:
    names = [entry.name for entry in path.parent.glob("*.y*ml")]
    hint = suggest(path.name, names) if path.parent.is_dir() else f"no such folder: {path.parent}"
    return Problem(f"{label}: no such file", "_base_" if asked else "", asked, hint)
