"""Command-line overrides: ``model.decode_head.channels=256``, ``hooks+={...}``, ``~key``, ``+new.key=1``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, get_args, get_origin

from segkernel.catalog import USUAL, Catalog
from segkernel.config.marks import MarkedDict, MarkedList, Place, place_of, summarize
from segkernel.config.merge import join, merge
from segkernel.config.paths import Path, format_path, split_path, step_in
from segkernel.config.sections import Sections
from segkernel.config.text import read_text
from segkernel.errors import Problem, suggest
from segkernel.signature import LISTS, UNIONS, describe, group_of, is_record, signature

_PLACE = Place("command line")
_FORMS = (("", "="), ("", "+="), ("~", ""), ("+", "="))
_HINT = "write KEY=VALUE, KEY+=VALUE, ~KEY, or +KEY=VALUE for a new key"


class _Change(NamedTuple):
    kind: str  # "=" sets, "+=" appends, "~" removes, "+" sets and may create
    value: Any = None


def apply_overrides(root: MarkedDict, overrides: Iterable[str], problems: list[Problem]) -> MarkedDict:
    """Return ``root`` with the overrides applied in order; those that do not apply are added to ``problems``."""
    for text in overrides:
        mode = text[0] if text[:1] in ("+", "~") else ""
        path, length = split_path(text[len(mode) :])
        rest = text[len(mode) + length :]
        sign = next((sign for sign in ("+=", "=") if rest.startswith(sign)), rest)
        if not path or (mode, sign) not in _FORMS:
            problems.append(Problem(f"{text!r} is not a valid override", place=_PLACE.file, hint=_HINT))
            continue
        count = len(problems)
        change = _Change(mode or sign, None if mode == "~" else _value(rest[len(sign) :], format_path(path), problems))
        if len(problems) == count:
            root = _descend(root, path, (), change, problems)
    return root


def _value(text: str, path: str, problems: list[Problem]) -> Any:
    found: list[Problem] = []
    value = read_text(text, _PLACE.file, found, _PLACE)
    if found and text[:1] not in tuple("[{\"'&!"):  # such as *.png or 50%: plain text
        return text
    problems.extend(Problem(problem.message, path, _PLACE.file, problem.hint) for problem in found)
    return value


def _descend(node: Any, path: Path, above: Path, change: _Change, problems: list[Problem]) -> Any:
    """Return ``node``, whose path is ``above``, with the change made at ``path`` below it."""
    try:
        key = step_in(node, path[0])
    except KeyError:
        key = path[0]
        if not _may_create(node, path, above, change):
            problems.append(_missing(node, key, above, change))
            return node
    if len(path) == 1:
        return _changed(node, key, above, change, problems)
    below = node[key] if key in node or isinstance(node, list) else None
    if isinstance(below, str) and "${" in below:
        message = f"is the reference {below}; change what it points to, or set it as a whole"
        problems.append(Problem(message, format_path((*above, key)), _PLACE.file))
        return node
    result = node.copy()
    below = MarkedDict(place=_PLACE) if below is None else below
    result[key] = _descend(below, path[1:], (*above, key), change, problems)
    result.places.setdefault(key, _PLACE)
    return result


def _changed(node: Any, key: Any, above: Path, change: _Change, problems: list[Problem]) -> Any:
    """Return ``node`` with the change made at ``key``, by the same rules as a file merged into it."""
    place = Place(_PLACE.file, text=summarize(change.value))
    if isinstance(node, MarkedDict):
        name = {"~": f"~{key}", "+=": f"{key}+"}.get(change.kind, key)
        over = MarkedDict({name: change.value}, places={name: place}, place=node.place)
        return merge(node, over, problems, format_path(above))
    if change.kind == "~":
        return node[:key] + node[key + 1 :]
    item = MarkedDict({str(key): node[key]}, places={str(key): node.places.get(key, place)})
    changed, result = _changed(item, str(key), above, change, problems), node.copy()
    result[key], result.places[key] = changed[str(key)], changed.places[str(key)]
    return result


def _may_create(node: Any, path: Path, above: Path, change: _Change) -> bool:
    if not isinstance(node, MarkedDict) or change.kind == "~":
        return False
    mentioned = path[0] in node.places  # a changed type or _delete_ dropped it
    usual = any(group_of(arm) in USUAL for arm in _arms(above))  # has a default ``type``, so it need not exist
    return change.kind == "+" or mentioned or path[0] in declared_keys(above) or usual


def _missing(node: Any, step: Any, above: Path, change: _Change) -> Problem:
    path = format_path(above)
    if isinstance(node, MarkedDict):
        readable = [] if change.kind == "~" else declared_keys(above)
        hints = [Catalog.current().moved(step) or suggest(step, [*node, *readable])]
        hints += [f"+{join(path, step)}=... adds a new key"] if above and change.kind != "~" else []
        return Problem("no such key in the config", join(path, step), _PLACE.file, "\n".join(hints))
    if isinstance(node, MarkedList) and isinstance(step, int):
        return Problem(f"the list has {len(node)} items and no [{step}]", path, _PLACE.file)
    return Problem(f"is {summarize(node)} and has no key {step!r}", path, _PLACE.file)


def declared_keys(path: Path) -> list[str]:
    """Return the keys that the kernel itself reads below ``path``; of a component, that is only its ``type``."""
    arms = _arms(path)
    return [*_parameters(arms), *(["type"] if any(map(group_of, arms)) else [])]


def _arms(path: Path) -> tuple[Any, ...]:
    """Return what the kernel accepts at ``path``: the annotation, or the arms of its union."""
    arms: tuple[Any, ...] = (Sections,)
    for step in path:
        annotation = _parameters(arms).get(step)
        arms = get_args(annotation) if get_origin(annotation) in UNIONS else (annotation,)
    return arms


def misshapen(config: MarkedDict) -> Iterator[Problem]:
    """Yield the sections that are not of the expected shape, mapping or list, which later code relies on."""
    for name, annotation in _parameters((Sections,)).items():
        value, arms = config.get(name), get_args(annotation)
        shapes: set[type] = {MarkedDict for arm in arms if is_record(arm) or group_of(arm)}
        shapes |= {MarkedList for arm in arms if get_origin(arm) in LISTS}
        plain = isinstance(value, (str, int, float, MarkedDict, MarkedList))  # a built object is not checked
        if shapes and plain and not isinstance(value, tuple(shapes)):
            yield Problem(f"expected {describe(annotation)}, got {summarize(value)}", name, place_of(config, name))


def _parameters(arms: Iterable[Any]) -> dict[Any, Any]:
    """Return the arguments of the classes among some annotations, with their annotations."""
    found = (entry for record in arms if is_record(record) for entry in signature(record).values())
    return {parameter.name: parameter.annotation for parameter in found}
