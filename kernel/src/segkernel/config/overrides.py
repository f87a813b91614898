"""What the command line changes: ``model.decode_head.channels=256``, ``hooks+={...}``, ``~key``, ``+new.key=1``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, Place, brief
from segkernel.config.merge import join, merge, unknown_key
from segkernel.config.paths import Path, format_path, split_path, step_in
from segkernel.config.sections import is_known, keys_under
from segkernel.config.text import read_text
from segkernel.errors import Problem

COMMAND_LINE = Place("command line")
_FORM = "write KEY=VALUE, KEY+=VALUE, ~KEY, or +KEY=VALUE for a new key"


def apply_overrides(root: MarkedDict, overrides: Iterable[str], problems: list[Problem]) -> MarkedDict:
    """Return ``root`` with the overrides applied in their order; what does not fit is added to ``problems``."""
    for text in overrides:
        root = _apply(root, str(text), problems)
    return root


def _apply(root: MarkedDict, text: str, problems: list[Problem]) -> MarkedDict:
    mode = text[0] if text[:1] in ("+", "~") else ""
    path, length = split_path(text[len(mode) :])
    rest = text[len(mode) + length :]
    append = rest.startswith("+=") and not mode
    if not path or not isinstance(path[0], str) or (rest != "" if mode == "~" else not rest.startswith(("=", "+="))):
        problems.append(Problem(f"{text!r} is no override", place="command line", hint=_FORM))
        return root
    if mode == "~":
        return _descend(root, path, (), _Change("~", None, True), problems)
    count = len(problems)
    value = _value(rest.removeprefix("+").removeprefix("="), format_path(path), problems)
    if len(problems) > count:
        return root
    return _descend(root, path, (), _Change("+" if append else "", value, mode == "+"), problems)


class _Change:
    """What is done at the end of a path: ``kind`` is "" to set, "+" to append, "~" to remove."""

    def __init__(self, kind: str, value: Any, create: bool) -> None:
        self.kind, self.value, self.create = kind, value, create


def _value(text: str, path: str, problems: list[Problem]) -> Any:
    found: list[Problem] = []
    value = read_text(text, "command line", found, COMMAND_LINE)
    if found and text[:1] not in tuple("[{\"'&!"):  # such as *.png or 50%: plain text after all
        return text
    problems.extend(Problem(problem.message, path, "command line", problem.hint) for problem in found)
    return value


def _descend(node: Any, path: Path, above: Path, change: _Change, problems: list[Problem]) -> Any:
    """Return ``node``, which stands at ``above``, with the change made at ``path`` below it."""
    step, rest = path[0], path[1:]
    try:
        key = step_in(node, step)
    except KeyError:
        if not _may_create(node, path, above, change):
            problems.append(_missing(node, step, above, change))
            return node
        key = step
    if not rest:
        return _change(node, key, above, change, problems)
    below = node[key] if isinstance(node, list) else node.get(key)
    if isinstance(below, str) and "${" in below:
        message = f"is the reference {below}; change what it points to, or set it as a whole"
        problems.append(Problem(message, format_path((*above, key)), "command line"))
        return node
    if below is None:
        below = MarkedDict(place=COMMAND_LINE)
    result = node.copy()
    result[key] = _descend(below, rest, (*above, key), change, problems)
    result.places.setdefault(key, COMMAND_LINE)
    return result


def _change(node: Any, key: Any, above: Path, change: _Change, problems: list[Problem]) -> Any:
    path = format_path(above)
    place = Place(COMMAND_LINE.file, text=brief(change.value))
    if isinstance(node, MarkedDict):
        name = {"~": f"~{key}", "+": f"{key}+"}.get(change.kind, key)
        return merge(node, MarkedDict({name: change.value}, places={name: place}, place=node.place), problems, path)
    if change.kind == "~":
        return node[:key] + node[key + 1 :]
    result = node.copy()
    if change.kind == "+":
        inner = MarkedDict({"item+": change.value}, places={"item+": place})
        result[key] = merge(MarkedDict({"item": node[key]}), inner, problems, path)["item"]
    else:
        result[key] = merge(node[key], change.value, problems, f"{path}[{key}]")
    result.places[key] = place.over(node.places.get(key))
    return result


def _may_create(node: Any, path: Path, above: Path, change: _Change) -> bool:
    if not isinstance(node, MarkedDict) or change.kind == "~" or not isinstance(path[0], str):
        return False
    mentioned = path[0] in node.places  # it was there until a changed type or _delete_ dropped it
    return change.create or mentioned or is_known(format_path((*above, *path)))


def _missing(node: Any, step: Any, above: Path, change: _Change) -> Problem:
    path = format_path(above)
    if isinstance(node, MarkedDict):
        known = [*node, *(key for key in keys_under(path) if key not in node and change.kind != "~")]
        problem = unknown_key(step, known, path, COMMAND_LINE, "nothing in the config has this key")
        new = "" if change.kind else f"+{join(path, step)}=... adds a new key"
        return replace(problem, hint="\n".join(filter(None, (problem.hint, new))))
    if isinstance(node, MarkedList) and isinstance(step, int):
        return Problem(f"the list has {len(node)} items, no [{step}]", path, "command line")
    return Problem(f"is {brief(node)}, there is no {step!r} in it", path, "command line")
