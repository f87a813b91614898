"""``${data.num_classes}``: values that take what another place of the config says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, brief
from segkernel.config.merge import unknown_key
from segkernel.config.paths import Path, format_path, parse_path, step_in
from segkernel.errors import Problem


def resolve(root: MarkedDict, problems: list[Problem]) -> MarkedDict:
    """Return a copy of ``root`` with every reference replaced by what it names; marks are kept.

    A text that is one whole reference takes the value with its type; a reference inside a text is written into it;
    ``$${`` stands for ``${``. References may be nested: ``${data.${which}.size}``.
    """
    result: MarkedDict = _Resolver(root, problems).value(root, ())
    return result


def references(text: str) -> Iterator[str]:
    """Yield the outermost references of ``text``, without their ``${`` and ``}``."""
    for literal, reference in _parts(text):
        if literal is None and reference is not None:
            yield reference


class _Unresolved(Exception):
    """A reference that led nowhere; the problem is noted already."""


class _Resolver:
    def __init__(self, root: MarkedDict, problems: list[Problem]) -> None:
        self.root, self.problems = root, problems
        self.active: list[Path] = []  # the references being followed, outermost first

    def value(self, raw: Any, path: Path, place: str = "") -> Any:
        """Resolve whatever stands at ``path``."""
        if isinstance(raw, MarkedDict):
            pairs = {key: self.child(raw, key, (*path, key)) for key in raw}
            return MarkedDict(pairs, places=raw.places, place=raw.place)
        if isinstance(raw, MarkedList):
            items = [self.child(raw, index, (*path, index)) for index in range(len(raw))]
            return MarkedList(items, places=raw.places, place=raw.place)
        return self.text(raw, path, place) if isinstance(raw, str) and "${" in raw else raw

    def child(self, container: Any, key: Any, path: Path) -> Any:
        place = str(container.places.get(key) or "")
        if self.active:
            return self.value(container[key], path, place)
        try:
            return self.value(container[key], path, place)
        except _Unresolved:
            return None

    def text(self, text: str, path: Path, place: str) -> Any:
        parts = self.parts(text, path, place)
        if len(parts) == 1 and parts[0][1] is not None:
            return self.follow(parts[0][1], path, place)
        written = [literal if name is None else self.inside(name, path, place) for literal, name in parts]
        return "".join(str(part) for part in written)

    def parts(self, text: str, path: Path, place: str) -> list[tuple[str | None, str | None]]:
        try:
            return list(_parts(text))
        except ValueError as error:
            raise self.problem(Problem(str(error), format_path(path), place, "write $${ for a plain ${")) from None

    def inside(self, name: str, path: Path, place: str) -> str:
        value = self.follow(name, path, place)
        if isinstance(value, (MarkedDict, MarkedList)):
            raise self.problem(
                Problem(f"${{{name}}} is {brief(value)}, which fits in no text", format_path(path), place)
            )
        return brief(value)

    def follow(self, name: str, path: Path, place: str) -> Any:
        """Return the resolved value that ``name`` points to."""
        if "${" in name:
            name = str(self.text(name, path, place))
        target = parse_path(name)
        if target is None:
            raise self.problem(
                Problem(f"${{{name}}} is no reference", format_path(path), place, "as in ${data.num_classes}")
            )
        if target in self.active:
            circle = " -> ".join(format_path(step) for step in (*self.active[self.active.index(target) :], target))
            raise self.problem(Problem(f"references go round in a circle: {circle}", format_path(path), place))
        self.active.append(target)
        try:
            return self.value(*self.find(target, name, path, place))
        finally:
            self.active.pop()

    def find(self, target: Path, name: str, path: Path, place: str) -> tuple[Any, Path, str]:
        """Return what stands at ``target``, unresolved, with its path and place."""
        node: Any = self.root
        where = ""
        for depth, step in enumerate(target):
            if isinstance(node, str):  # a reference on the way
                node = self.value(node, target[:depth], where)
            try:
                key = step_in(node, step)
            except KeyError:
                raise self.missing(node, target, depth, name, path, place) from None
            where = str(node.places.get(key) or "")
            node = node[key]
        return node, target, where

    def missing(self, node: Any, target: Path, depth: int, name: str, path: Path, place: str) -> _Unresolved:
        found = format_path(target[:depth]) or "the config"
        what = f"has no {target[depth]!r}" if isinstance(node, MarkedDict) else f"is {brief(node)}"
        near = unknown_key(target[depth], node if isinstance(node, MarkedDict) else (), "", "").hint
        return self.problem(Problem(f"${{{name}}} points to nothing: {found} {what}", format_path(path), place, near))

    def problem(self, problem: Problem) -> _Unresolved:
        if problem not in self.problems:
            self.problems.append(problem)
        return _Unresolved()


def _parts(text: str) -> Iterator[tuple[str | None, str | None]]:
    """Split ``text`` into (literal, None) and (None, reference).

    Raises:
        ValueError: A reference is not closed.
    """
    position = 0
    while position < len(text):
        start = text.find("${", position)
        if start < 0:
            yield text[position:], None
            return
        if start > position and text[start - 1] == "$":
            yield text[position : start - 1] + "${", None
            position = start + 2
            continue
        if start > position:
            yield text[position:start], None
        position = _end(text, start)
        yield None, text[start + 2 : position - 1]


def _end(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        if text.startswith("${", index):
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index + 1
    raise ValueError(f"a reference is not closed in {text!r}")
