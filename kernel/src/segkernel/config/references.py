"""``${data.num_classes}``: values that refer to other values of the config."""

from __future__ import annotations

import re
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, place_of, summarize
from segkernel.config.paths import Path, format_path, parse_path, step_in
from segkernel.config.text import MOST_LEVELS, MOST_VALUES
from segkernel.errors import ConfigError, Problem, suggest

_INNERMOST = re.compile(r"(?<!\$)\$\{([^${}]*)\}")
_OPEN = re.compile(r"(?<!\$)\$\{")


def resolve(root: MarkedDict, problems: list[Problem]) -> MarkedDict:
    """Return a copy of ``root`` with every reference replaced by what it names; marks are kept.

    A string that consists of one reference takes the value with its type; a reference within a string is interpolated;
    ``$${`` is a literal ``${``. References may be nested: ``${data.${which}.size}``.
    """
    result: MarkedDict = _Resolver(root, problems).value(root, (), "")
    return result


def references(text: str) -> list[str]:
    """Return the references of ``text``, of nested ones the innermost, without their ``${`` and ``}``."""
    return _INNERMOST.findall(text)


class _Resolver:
    def __init__(self, root: MarkedDict, problems: list[Problem]) -> None:
        self.root, self.problems = root, problems
        self.active: list[Path] = []  # the references being followed, outermost first
        self.size = self.level = 0

    def value(self, raw: Any, path: Path, place: str) -> Any:
        """Resolve the value at ``path``."""
        # References to references grow exponentially: a few lines of them can take gigabytes.
        self.size += 1 + len(raw) // 10 if isinstance(raw, str) else 1
        if self.size > MOST_VALUES or self.level > MOST_LEVELS:
            what = "are nested too deeply" if self.level > MOST_LEVELS else f"hold more than {MOST_VALUES} values"
            first = format_path((*self.active, path)[0])
            raise ConfigError(Problem(f"references {what}, starting at {first}", format_path(path), place))
        self.level += 1
        resolved = self._resolved(raw, path, place)
        self.level -= 1
        return resolved

    def _resolved(self, raw: Any, path: Path, place: str) -> Any:
        if isinstance(raw, MarkedDict):
            return MarkedDict({key: self.child(raw, key, path) for key in raw}, places=raw.places, place=raw.place)
        if isinstance(raw, MarkedList):
            items = [self.child(raw, index, path) for index in range(len(raw))]
            return MarkedList(items, places=raw.places, place=raw.place)
        return self.text(raw, path, place) if isinstance(raw, str) and "${" in raw else raw

    def child(self, container: Any, key: Any, path: Path) -> Any:
        return self.value(container[key], (*path, key), place_of(container, key))

    def text(self, text: str, path: Path, place: str) -> Any:
        while match := _INNERMOST.search(text):  # a nested reference takes one round per level
            value = self.follow(match[1], path, place)
            if match[0] == text:
                return value
            if isinstance(value, (MarkedDict, MarkedList)):
                return self.problem(f"{match[0]} is {summarize(value)}, which does not fit into a string", path, place)
            text = text[: match.start()] + summarize(value).replace("${", "$${") + text[match.end() :]
        if _OPEN.search(text):
            return self.problem(f"unclosed reference in {text!r}", path, place, "write $${ for a literal ${")
        return text.replace("$${", "${")

    def follow(self, name: str, path: Path, place: str) -> Any:
        """Return the resolved value that ``name`` points to."""
        self.size += 20  # a lookup costs as much time as visiting so many values
        target = parse_path(name)
        if target is None:
            return self.problem(f"${{{name}}} is not a valid reference", path, place, "as in ${data.num_classes}")
        if target in self.active:
            circle = " -> ".join(format_path(step) for step in (*self.active[self.active.index(target) :], target))
            return self.problem(f"circular reference: {circle}", path, place)
        self.active.append(target)
        value = self.find(target, path, place)
        self.active.pop()
        return value

    def find(self, target: Path, path: Path, place: str) -> Any:
        node: Any = self.root
        where = ""
        for depth, step in enumerate(target):
            if isinstance(node, str):  # a reference on the way
                node = self.value(node, target[:depth], where)
            try:
                key = step_in(node, step)
            except KeyError:
                found = format_path(target[:depth]) or "the config"
                what = f"has no {step!r}" if isinstance(node, MarkedDict) else f"is {summarize(node)}"
                message = f"${{{format_path(target)}}} does not exist: {found} {what}"
                return self.problem(message, path, place, suggest(step, node))
            where = place_of(node, key)
            node = node[key]
        return self.value(node, target, where)

    def problem(self, message: str, path: Path, place: str, hint: str = "") -> None:
        problem = Problem(message, format_path(path), place, hint)
        if problem not in self.problems:
            self.problems.append(problem)
