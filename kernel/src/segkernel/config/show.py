"""A resolved config as text, and the history of one value."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from segkernel.config.marks import MarkedDict, Place, brief, plain
from segkernel.config.merge import unknown_key
from segkernel.config.paths import Path, format_path, parse_path, step_in
from segkernel.config.references import references
from segkernel.config.text import scalar
from segkernel.errors import ConfigError, Problem


def to_yaml(data: Any) -> str:
    """Return YAML that `segkernel.config.load_config` reads back to the same plain values."""
    import yaml

    style: Any = {"sort_keys": False, "allow_unicode": True, "width": 110, "default_flow_style": None}
    text: str = yaml.dump(plain(data), Dumper=_dumper(), **style)
    return text


def explain(raw: MarkedDict, data: MarkedDict, key: str) -> list[str]:
    """Return the value of ``key`` and one line for each place that had a say, the last word first.

    Raises:
        ConfigError: There is no such key, and never was.
    """
    path = parse_path(key)
    if path is None:
        raise ConfigError(Problem(f"{key!r} is no key", hint="as in model.decode_head.channels"))
    try:
        value = _walk(data, path)
        head = f"{key}: {brief(value)}"
    except KeyError:
        head = f"{key}: not set"
    lines = list(_history(raw, path, 1, ()))
    if not lines and head.endswith("not set"):
        raise ConfigError(_no_key(data, path))
    return [head, *lines]


def _history(raw: MarkedDict, path: Path, indent: int, seen: tuple[Path, ...]) -> Iterator[str]:
    if path in seen:
        return
    node: Any = raw
    for depth, step in enumerate(path[:-1]):
        try:
            node = node[step_in(node, step)]
        except KeyError:
            return
        if isinstance(node, str):  # what is asked for lies behind a reference
            yield from _history(raw, path[: depth + 1], indent, seen)
            for reference in references(node):
                yield from _referenced(raw, f"{reference}{_tail(path[depth + 1 :])}", indent, (*seen, path))
            return
    place = _place(node, path[-1])
    while place is not None:
        yield f"{'  ' * indent}{place}  {place.text}".rstrip()
        for reference in references(place.text):
            yield from _referenced(raw, reference, indent, (*seen, path))
        place = place.before


def _referenced(raw: MarkedDict, reference: str, indent: int, seen: tuple[Path, ...]) -> Iterator[str]:
    for inner in references(reference):
        yield from _referenced(raw, inner, indent, seen)
    target = parse_path(reference)
    if target is not None:
        yield f"{'  ' * (indent + 1)}from {reference}"
        yield from _history(raw, target, indent + 2, seen)


def _place(node: Any, step: Any) -> Place | None:
    places = getattr(node, "places", {})
    try:
        return places.get(step_in(node, step))
    except KeyError:
        return places.get(step)  # removed or dropped


def _tail(path: Path) -> str:
    text = format_path(path)
    return text if text.startswith("[") or not text else f".{text}"


def _walk(node: Any, path: Path) -> Any:
    for step in path:
        node = node[step_in(node, step)]
    return node


def _no_key(data: MarkedDict, path: Path) -> Problem:
    node: Any = data
    for depth, step in enumerate(path):
        try:
            node = node[step_in(node, step)]
        except KeyError:
            known = node if isinstance(node, MarkedDict) else ()
            return unknown_key(step, known, format_path(path[:depth]), "", "nothing in the config has this key")
    raise AssertionError(path)


@lru_cache(maxsize=1)
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        style = None if isinstance(scalar(value), str) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value.replace("${", "$${"), style=style)

    def other(dumper: Any, value: Any) -> Any:  # an object that was put into a config by hand
        return text(dumper, f"<{type(value).__name__}>")

    Dumper.add_representer(str, text)
    Dumper.add_multi_representer(object, other)
    return Dumper
