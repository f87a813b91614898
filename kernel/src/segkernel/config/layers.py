"""Config files and what they stand on: ``_base_`` chains, as a list of layers to lay over each other."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from segkernel.config.marks import MarkedDict, as_list, brief, place_of
from segkernel.config.text import read_file
from segkernel.config.zoo import MissingPackageError, Zoo, label_of, packaged
from segkernel.errors import ConfigError, Problem, suggest


class Layers:
    """Collects the layers of a config, lowest first; a base reached twice counts once, where it came first.

    Args:
        zoos: Where packaged names are looked up.
        problems: What is wrong is added here.
    """

    def __init__(self, zoos: list[Zoo], problems: list[Problem]) -> None:
        self.zoos, self.problems = zoos, problems
        self.found: list[MarkedDict] = []
        self.depth = 0
        self._seen: set[Path] = set()

    def add_file(self, path: Path, asked: str = "", chain: tuple[Path, ...] = ()) -> None:
        """Add a file and all that it stands on; ``asked`` is the place that named it."""
        path = Path(os.path.normpath(path.absolute()))
        label = label_of(path, self.zoos)
        if path in chain:
            circle = " -> ".join(label_of(link, self.zoos) for link in (*chain[chain.index(path) :], path))
            self.problems.append(Problem(f"a base includes itself: {circle}", "_base_", asked))
        elif not path.exists():
            self.problems.append(_no_file(path, label, asked))
        elif path not in self._seen:
            self._seen.add(path)
            mapping = read_file(path, label, self.problems)
            if mapping is not None:
                self.add(mapping, (*chain, path))

    def add(self, mapping: MarkedDict, chain: tuple[Path, ...] = ()) -> None:
        """Add a mapping after the bases that it names; ``chain`` ends with the file that it was read from."""
        self.depth = max(self.depth, len(chain) - 1)
        for index, name in enumerate(bases := as_list(mapping, "_base_")):
            asked = place_of(bases, index)
            if not isinstance(name, str) or not name:
                message = f"a base is a path or a packaged name, not {brief(name)}"
                self.problems.append(Problem(message, "_base_", asked))
            else:
                self._add_base(name, asked, chain)
        self.found.append(mapping.without("_base_"))

    def _add_base(self, name: str, asked: str, chain: tuple[Path, ...]) -> None:
        """Add a base: a file beside the one that names it, a packaged file, or a config of the zoo by its name."""
        path = (chain[-1].parent if chain else Path()) / Path(name).expanduser()
        if path.suffix in (".yaml", ".yml") or path.exists():
            self.add_file(packaged(name, self.zoos, asked)[1] if "::" in name else path, asked, chain)
            return
        from segkernel.config.experiments import add_layers, find_experiment

        try:
            experiment = find_experiment(name, self.zoos)
            if experiment.path in chain:
                self.add_file(experiment.path, asked, chain)  # says that it includes itself
            else:
                add_layers(experiment, self)
        except MissingPackageError:
            raise
        except ConfigError as error:
            self.problems += [replace(problem, path="_base_", place=asked) for problem in error.problems]


def _no_file(path: Path, label: str, asked: str) -> Problem:
    names = [entry.name for entry in path.parent.glob("*.y*ml")]
    hint = suggest(path.name, names) if path.parent.is_dir() else f"there is no folder {path.parent}"
    if asked:
        return Problem(f"there is no file {label}", "_base_", asked, hint)
    return Problem("there is no such file", place=label, hint=hint)
