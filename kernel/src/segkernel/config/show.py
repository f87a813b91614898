"""A resolved config as YAML text, and the history of one value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from segkernel.config.marks import MarkedDict, place_of, summarize, to_builtin
from segkernel.config.paths import Path, format_path, parse_path, step_in
from segkernel.config.references import references
from segkernel.config.text import scalar
from segkernel.errors import ConfigError, Problem, suggest

_YAML_1_1_WORDS = ("y", "n", "yes", "no", "on", "off")  # strings here, but not for YAML 1.1 readers


def to_yaml(data: Any, places: bool = False) -> str:
    """Return YAML that loads back to the same plain values; with ``places``, each with a comment on its origin."""
    value = data if places else to_builtin(data)
    return "".join(f"{text:<57} # {place}\n" if place else f"{text}\n" for text, place in _lines(value, ""))


def explain(data: MarkedDict, key: str) -> list[str]:
    """Return the value of ``key`` and its history: one line for each place that set or overrode it, newest first.

    Raises:
        ConfigError: The key does not exist, and no layer has set it.
    """
    path = parse_path(key)
    if path is None:
        raise ConfigError(Problem(f"{key!r} is not a valid key", hint="as in model.decode_head.channels"))
    history = list(_history(data, path, "  ", ()))
    node: Any = data
    for depth, step in enumerate(path):
        try:
            node = node[step_in(node, step)]
        except KeyError:
            if history:
                return [f"{key}: not set", *history]
            name = format_path(path[: depth + 1])
            raise ConfigError(Problem("no such key in the config", name, hint=suggest(step, node))) from None
    return [f"{key}: {summarize(node)}", *history]


def _lines(value: Any, indent: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of a container in block style, each with its place; lists of scalars stay on one line."""
    mapping = isinstance(value, dict)
    for key, item in value.items() if mapping else enumerate(value):
        head = f"{indent}{_inline(key, key=True)}:" if mapping else f"{indent}-"
        place = place_of(value, key)
        if not _is_deep(item):
            yield f"{head} {_inline(item)}", place
        elif mapping:
            yield head, place
            yield from _lines(item, f"{indent}  ")
        else:
            (first, place), *rest = _lines(item, f"{indent}  ")
            yield f"{head} {first.strip()}", place
            yield from rest


def _is_deep(item: Any) -> bool:
    """Whether it needs several lines: a mapping, or a list that contains a mapping."""
    if isinstance(item, list):
        return any(isinstance(part, dict) or _is_deep(part) for part in item)
    return isinstance(item, dict) and len(item) > 0


def _inline(value: Any, key: bool = False) -> str:
    """Write a scalar, an empty mapping or a list of such."""
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    if value is None or isinstance(value, (bool, int, dict)):
        return summarize(value)
    text = value if isinstance(value, str) else f"<{type(value).__name__}>"
    text = text if key else text.replace("${", "$${")  # keys contain no references
    if re.fullmatch(r"[A-Za-z_/]([\w./:()+@-]*[\w./()+@-])?", text, re.ASCII) and isinstance(scalar(text), str):
        return f'"{text}"' if text.lower() in _YAML_1_1_WORDS else text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _history(data: MarkedDict, path: Path, indent: str, seen: tuple[Path, ...]) -> Iterator[str]:
    """Yield a line for each place in the history of ``path``, each followed by those of its references."""
    node: Any = data
    try:
        for step in path[:-1]:
            node = node[step_in(node, step)]
        step = step_in(node, path[-1])
    except KeyError:
        step = path[-1]  # removed or dropped, if it ever was
    place = getattr(node, "places", {}).get(step)
    while place is not None:
        yield f"{indent}{place}  {place.text}".rstrip()
        for reference in references(place.text):
            target = parse_path(reference)
            if target is not None and target not in seen:
                yield f"{indent}  from {reference}"
                yield from _history(data, target, f"{indent}    ", (*seen, path))
        place = place.before
