"""Config files and what they stand on: ``_base_`` chains, as a list of layers to lay over each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from segkernel.config.marks import MarkedDict, MarkedList, brief
from segkernel.config.text import read_file
from segkernel.config.zoo import MissingPackageError, Zoo, pick_zoo
from segkernel.errors import Problem, did_you_mean


@dataclass(frozen=True)
class Source:
    """A config file.

    Args:
        path: Where it lies.
        label: What places call it.
        zoo: The zoo that it belongs to, if any.
    """

    path: Path
    label: str
    zoo: Zoo | None = None

    @classmethod
    def of(cls, path: Path, zoo: Zoo | None = None) -> Source:
        """Describe a file, with a short label."""
        if zoo is not None and (label := zoo.label(path)):
            return cls(path, label, zoo)
        absolute = Path(os.path.normpath(path.absolute()))
        here = Path.cwd()
        return cls(absolute, str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute))


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

    def add_file(self, source: Source, asked: str = "", chain: tuple[Source, ...] = ()) -> None:
        """Add a file and all it stands on; ``asked`` is the place that named it."""
        path = source.path.resolve()
        links = [link.path.resolve() for link in chain]
        if path in links:
            circle = " -> ".join(link.label for link in (*chain[links.index(path) :], source))
            self.problems.append(Problem(f"a base includes itself: {circle}", "_base_", asked))
            return
        if path in self._seen:
            return
        self._seen.add(path)
        if not path.exists():
            self.problems.append(_no_file(source, asked))
            return
        mapping = read_file(source.path, source.label, self.problems)
        if mapping is not None:
            self.add(mapping, source, (*chain, source))

    def add(self, mapping: MarkedDict, source: Source | None, chain: tuple[Source, ...] = ()) -> None:
        """Add a mapping that was read from ``source``, after the bases that it names."""
        self.depth = max(self.depth, len(chain) - 1)
        for text, place in self._bases(mapping):
            base = self._locate(text, place, source)
            if base is not None:
                self.add_file(base, place, chain)
        layer = mapping.copy()
        layer.pop("_base_", None)
        self.found.append(layer)

    def _bases(self, mapping: MarkedDict) -> list[tuple[str, str]]:
        if "_base_" not in mapping:
            return []
        place = str(mapping.places.get("_base_") or "")
        value = mapping["_base_"]
        names = value if isinstance(value, MarkedList) else [value]
        wrong = [name for name in names if not isinstance(name, str)]
        if wrong:
            message = f"a base is a path or a packaged name, not {brief(wrong[0])}"
            self.problems.append(Problem(message, "_base_", place))
            return []
        places = value.places if isinstance(value, MarkedList) else {}
        return [(name, str(places.get(index) or place)) for index, name in enumerate(names)]

    def _locate(self, text: str, place: str, source: Source | None) -> Source | None:
        if "::" in text:
            return packaged(text, self.zoos, place)
        folder = Path() if source is None else source.path.parent
        path = Path(os.path.normpath(folder / Path(text).expanduser()))
        return Source.of(path, source.zoo if source else None)


def packaged(text: str, zoos: list[Zoo], asked: str = "") -> Source:
    """Return the file that ``distribution::path`` names.

    Raises:
        MissingPackageError: The distribution is not installed, or brings no configs.
    """
    distribution, _, inside = text.partition("::")
    zoo = pick_zoo(distribution, zoos)
    if zoo is None:
        near = did_you_mean(distribution, [zoo.name for zoo in zoos])
        hint = f"did you mean {near[0]}::{inside}?" if near else f"pip install {distribution}"
        raise MissingPackageError(
            Problem(f"{text}: no package {distribution} with configs is installed", "", asked, hint)
        )
    return Source.of(Path(os.path.normpath(zoo.folder / inside)), zoo)


def _no_file(source: Source, asked: str) -> Problem:
    folder = source.path.parent
    names = [entry.name for entry in folder.glob("*.y*ml")] if folder.is_dir() else []
    near = did_you_mean(source.path.name, names)
    hint = f"did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    if not folder.is_dir():
        hint = f"there is no folder {folder}" if source.zoo is None else ""
    if asked:
        return Problem(f"there is no file {source.label}", "_base_", asked, hint)
    return Problem("there is no such file", place=source.label, hint=hint)
