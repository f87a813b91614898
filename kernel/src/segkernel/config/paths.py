"""Dotted paths such as ``model.decode_head.channels``, ``hooks[0].interval`` and ``custom_keys["backbone.norm"]``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList

Path = tuple[Any, ...]

_KEY = r"""[^.\[\]="'${}+~]+"""
_STEP = re.compile(rf"""\.?(?P<key>{_KEY})|\[(?P<index>-?\d+)\]|\[(?P<quote>["'])(?P<quoted>.*?)(?P=quote)\]""")


def split_path(text: str) -> tuple[Path, int]:
    """Read a path at the start of ``text``; return it and the number of characters it took."""
    steps: list[Any] = []
    position = 0
    while match := _STEP.match(text, position):
        if bool(steps) != match[0].startswith(".") and match["key"] is not None:
            break  # a key that is not the first needs its dot, the first has none
        steps.append(int(match["index"]) if match["index"] else match["key"] or match["quoted"])
        position = match.end()
    return tuple(steps), position


def parse_path(text: str) -> Path | None:
    """Read a whole path; None if ``text`` is not a path."""
    steps, length = split_path(text.strip())
    return steps if steps and length == len(text.strip()) else None


def format_path(path: Iterable[Any]) -> str:
    """Write a path as it is typed."""
    steps = (f".{s}" if type(s) is str and re.fullmatch(_KEY, s) else f"[{json.dumps(s)}]" for s in path)
    return "".join(steps).removeprefix(".")


def step_in(container: Any, step: Any) -> Any:
    """Return the key or index under which ``container`` holds ``step``.

    Raises:
        KeyError: There is no such key or index.
    """
    if isinstance(container, MarkedList) and isinstance(step, int) and -len(container) <= step < len(container):
        return step % len(container)
    if isinstance(container, MarkedDict):
        for key in (step, int(step) if str(step).lstrip("-").isdigit() else step):  # labels.0 finds the key 0
            if key in container:
                return key
    raise KeyError(step)
