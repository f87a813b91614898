"""Plain values as YAML that reads well: mappings and lists that fit on a line are written on one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from segkernel.config.show import to_yaml

WIDTH = 100


def flow(value: Any) -> str:
    """Return a value on one line: four digits of a float, the name of a class or function."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float) and math.isfinite(value):
        value = float(f"{value:.4g}")
    if callable(value):
        return str(getattr(value, "__name__", value))
    return to_yaml({"": value}).partition(": ")[2].strip().replace("$${", "${")


def block(value: Any) -> str:
    """Return a value whose top level is in lines."""
    return "".join(f"{line}\n" for line in _lines(value, ""))


def _lines(value: Any, indent: str) -> Iterator[str]:
    is_mapping = isinstance(value, Mapping)
    for key, item in value.items() if is_mapping else enumerate(value):
        head = f"{indent}{key}:" if is_mapping else f"{indent}-"
        line = f"{head} {flow(item)}"
        deep = isinstance(item, Mapping) or (isinstance(item, list) and _holds_mapping(item))
        if not deep or not item or (len(line) <= WIDTH and not _holds_mapping(item)):
            yield line
        elif is_mapping:
            yield head
            yield from _lines(item, f"{indent}  ")
        else:
            first, *rest = _lines(item, f"{indent}  ")
            yield from (f"{head} {first.strip()}", *rest)


def _holds_mapping(value: Any) -> bool:
    parts = value.values() if isinstance(value, Mapping) else value
    return any(
        isinstance(part, (Mapping, list)) and (isinstance(part, Mapping) or _holds_mapping(part)) for part in parts
    )
