"""Writing a config for people: one line for each value, with the reason as a comment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segplug_datasets.doctor.findings import to_yaml

_WIDTH = 118


def render(values: Mapping[str, Any], why: Mapping[str, str], head: str) -> str:
    """Return the YAML of a config.

    Args:
        values: Sections with their contents.
        why: Comments by the path of their key: ``optim.batch_size``.
        head: Comment of the whole file.
    """
    lines = [f"# {line}" for line in head.splitlines()]
    for key, value in values.items():
        lines += [""] if isinstance(value, Mapping | list) else []
        lines += _lines(key, value, why, key, 0)
    return "\n".join(lines) + "\n"


def _lines(key: Any, value: Any, why: Mapping[str, str], path: str, depth: int) -> Iterator[str]:
    start, comment = "  " * depth, why.get(path, "")
    if isinstance(value, Mapping) and not _is_short(value):
        yield from _with_comment(f"{start}{key}:", comment, start)
        for name, inner in value.items():
            yield from _lines(name, inner, why, f"{path}.{name}", depth + 1)
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        yield from _with_comment(f"{start}{key}:", comment, start)
        for place, one in enumerate(value):
            yield from _with_comment(f"{start}  - {flow(one)}", why.get(f"{path}[{place}]", ""), f"{start}  ")
    else:
        yield from _with_comment(
            f"{start}{key}: {flow(value)}" if value is not None else f"{start}{key}:", comment, start
        )


def _is_short(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is written in one line: label values by number, and references."""
    return not value or all(isinstance(key, int) for key in value)


def _with_comment(line: str, comment: str, start: str) -> Iterator[str]:
    """Yield a line with its comment, which goes above it if the two do not fit on one line."""
    if comment and len(line) + len(comment) + 4 > _WIDTH:
        yield f"{start}# {comment}"
        yield line
    else:
        yield f"{line}  # {comment}" if comment else line


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    text = to_yaml([value])
    return text[1:-1] if "\n" not in text else repr(value)
