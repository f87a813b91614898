"""YAML text to marked containers: plain data only, with scalars as in YAML 1.2 and ``1e-4`` a number.

PyYAML parses the text into events; its constructors, which read ``1e-4`` as text, ``on`` as true and ``1:30`` as 90,
are not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from segkernel.config.marks import MarkedDict, MarkedList, Place, summarize
from segkernel.errors import ConfigError, Problem

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+")
_FLOAT = re.compile(r"(?=.*[.eE])[-+]?(?=\.?[0-9])([0-9]+(_[0-9]+)*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, ".nan": float("nan"), ".inf": float("inf")}
_WORDS |= {"+.inf": float("inf"), "-.inf": float("-inf"), "null": None, "true": True, "false": False}
MOST_VALUES, MOST_LEVELS = 200_000, 100  # far above any config; stops alias bombs and deep nesting
_MOST_BYTES = 20_000_000
_TOO_DEEP = "is nested too deeply"


def scalar(text: str) -> Any:
    """Read an unquoted scalar: null, true or false, a number, else the text itself.

    ``1e-4``, ``1_000``, ``0x1F`` are numbers; ``on``, ``yes``, ``0123``, ``1:30``, ``2024-01-31`` are texts.
    """
    if text in _WORDS or (text.lower() in _WORDS and text in (text.upper(), text.capitalize())):
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text


def read_file(path: Path, label: str, problems: list[Problem]) -> MarkedDict | None:
    """Read a config file, a mapping; errors go to ``problems``, with places that name the file ``label``."""
    if path.exists() and not path.is_dir() and not (path.is_file() and path.stat().st_size <= _MOST_BYTES):
        # reading a device or a pipe may never end
        what = "exceeds the size limit for configs" if path.is_file() else "is not a regular file"
        problems.append(Problem(what, place=label))
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(Problem(f"is not UTF-8 text (byte {error.start})", place=label))
    except OSError as error:
        problems.append(Problem(f"cannot be read: {error.strerror}", place=label))
    else:
        return read_mapping(text, label, problems)
    return None


def read_mapping(text: str, label: str, problems: list[Problem]) -> MarkedDict | None:
    """Read YAML text that must be a mapping."""
    count = len(problems)
    value = read_text(text, label, problems)
    if isinstance(value, MarkedDict):
        return value
    if len(problems) == count:
        # The content is not shown: a base can be any file of the machine.
        kind = "a list" if isinstance(value, list) else "a plain value"
        message = "is empty" if value is None else f"holds {kind} at the top"
        problems.append(Problem(f"{message}; a config is a mapping", place=label, hint="for example  model: {...}"))
    return None


def read_text(text: str, label: str, problems: list[Problem], place: Place | None = None) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        label: The file's name in places.
        problems: Errors are added here.
        place: Used for every value instead of its line, for text from the command line.
    """
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        return _Reader(events, label, problems, place).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place or (Place(label, mark.line + 1, mark.column + 1) if mark else Place(label))
        context = f" ({error.context})" if error.context else ""
        read = text[: mark.index + 1] if mark else ""
        hint = "a tab cannot indent YAML; use spaces" if read.endswith("\t") else ""
        # The scanner runs ahead of the events, and some versions of PyYAML have a lower depth limit than ours.
        deep = read.count("[") + read.count("{") - read.count("]") - read.count("}") > MOST_LEVELS
        message = _TOO_DEEP if deep else f"not valid YAML: {error.problem}{context}"
        problems.append(Problem(message, place=str(where), hint=hint))
    except (yaml.YAMLError, ValueError) as error:
        problems.append(Problem(f"cannot be read as YAML: {str(error).splitlines()[0]}", place=str(place or label)))
    except ConfigError as error:
        problems.extend(error.problems)
    return None


class _Reader:
    """Makes marked containers from YAML events."""

    def __init__(self, events: Iterator[Any], label: str, problems: list[Problem], place: Place | None) -> None:
        self.events, self.label, self.problems, self.fixed = events, label, problems, place
        self.anchors: dict[str, tuple[Any, int]] = {}  # name to value and the number of values in it
        self.count = 0

    def document(self) -> Any:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.value(next(self.events), 0)
        next(self.events)
        if not isinstance(event := next(self.events), yaml.StreamEndEvent):
            self.problem(event, "a second document begins; a config is a single document")
        return value

    def value(self, event: Any, level: int) -> Any:
        if level > MOST_LEVELS or self.count > MOST_VALUES:
            what = _TOO_DEEP if level > MOST_LEVELS else f"holds more than {MOST_VALUES} values"
            raise ConfigError(Problem(what, place=str(self.place(event))))
        before, self.count = self.count, self.count + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                return self.problem(event, f"the alias *{event.anchor} has no anchor before it")
            value, size = self.anchors[event.anchor]
            self.count += size  # an alias counts as what it repeats
            return value
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problem(event, f"the tag {tag} is not supported; configs hold plain values only", "quote strings")
        if isinstance(event, yaml.ScalarEvent):
            value = scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.items(event, level + 1)
        else:
            value = self.pairs(event, level + 1)
        if event.anchor:
            self.anchors[event.anchor] = value, self.count - before
        return value

    def items(self, start: Any, level: int) -> MarkedList:
        result = MarkedList(place=self.place(start))
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            item = self.value(event, level)
            result.places[len(result)] = self.place(event, item)
            result.append(item)
        return result

    def pairs(self, start: Any, level: int) -> MarkedDict:
        result = MarkedDict(place=self.place(start))
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.value(event, level)
            value = self.value(next(self.events), level)
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                self.problem(event, f"a key must be a string or an integer, not {summarize(key)}", "quote it")
            elif key == "<<" and event.implicit[0]:
                self.problem(event, "the merge key << is unsupported", "use _base_, or a reference: ${model.backbone}")
            elif key in result:
                self.problem(event, f"duplicate key {key!r}", f"first at {result.places[key]}")
            else:
                result[key] = value
                result.places[key] = self.place(event, value)
        return result

    def place(self, event: Any, value: Any = "") -> Place:
        if self.fixed is not None:
            return Place(self.fixed.file, text=summarize(value))
        return Place(self.label, event.start_mark.line + 1, event.start_mark.column + 1, summarize(value))

    def problem(self, event: Any, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, place=str(self.place(event)), hint=hint))
