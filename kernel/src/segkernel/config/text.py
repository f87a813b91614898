"""YAML text to marked containers: plain data only, with scalars read as people expect.

PyYAML parses; its constructors, which read ``1e-4`` as text, ``on`` as true and ``1:30`` as 90, are not used.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkernel.config.marks import MarkedDict, MarkedList, Place, brief
from segkernel.errors import ConfigError, Problem

if TYPE_CHECKING:
    import yaml

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+")
_FLOAT = re.compile(r"[-+]?([0-9]+(_[0-9]+)*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, ".nan": float("nan"), ".inf": float("inf")}
_WORDS |= {"+.inf": float("inf"), "-.inf": float("-inf"), "null": None, "true": True, "false": False}
_MOST_VALUES = 200_000  # far above any config; stops an alias bomb


def scalar(text: str) -> Any:
    """Read an unquoted scalar: null, true or false, a number, else the text itself.

    ``1e-4``, ``1_000``, ``0x1F`` are numbers; ``on``, ``yes``, ``0123``, ``1:30``, ``2024-01-31`` are texts.
    """
    if text in _WORDS or (text.lower() in _WORDS and text in (text.upper(), text.capitalize())):
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and re.match(r"[-+]?\.?[0-9]", text) and not re.fullmatch(r"[-+]?[0-9_]+", text):
        return float(text)
    return text


def read_file(path: Path, label: str, problems: list[Problem]) -> MarkedDict | None:
    """Read a config file; what is wrong is added to ``problems``, with places that call the file ``label``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(Problem(f"is not UTF-8 text (byte {error.start})", place=label))
    except IsADirectoryError:
        problems.append(Problem("is a folder, not a config file", place=label))
    except OSError as error:
        problems.append(Problem(f"cannot be read: {error.strerror}", place=label))
    else:
        return read_mapping(text, label, problems)
    return None


def read_mapping(text: str, label: str, problems: list[Problem]) -> MarkedDict | None:
    """Read YAML text that must be a mapping."""
    count = len(problems)
    value = read_text(text, label, problems)
    if len(problems) > count:
        return value if isinstance(value, MarkedDict) else None
    if isinstance(value, MarkedDict):
        return value
    kind = "is empty" if value is None else f"holds {_kind(value)} at the top"
    problems.append(Problem(f"{kind}; a config is a mapping", place=label, hint="for example  model: {...}"))
    return None


def read_text(text: str, label: str, problems: list[Problem], place: Place | None = None) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        label: What places call the file.
        problems: What is wrong is added here.
        place: Used for every value instead of its own line, for text from the command line.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=_loader())
    except yaml.MarkedYAMLError as error:
        problems.append(_syntax(error, text, label, place))
        return None
    except (yaml.YAMLError, ValueError) as error:
        problems.append(Problem(f"cannot be read as YAML: {_first_line(error)}", place=str(place or label)))
        return None
    except RecursionError:
        problems.append(Problem("is nested too deeply", place=str(place or label)))
        return None
    return None if node is None else _Converter(label, problems, place).value(node, ())


class _Converter:
    """Turns nodes into marked containers."""

    def __init__(self, label: str, problems: list[Problem], place: Place | None) -> None:
        self.label, self.problems, self.fixed = label, problems, place
        self.count = 0

    def value(self, node: yaml.Node, parents: tuple[int, ...]) -> Any:
        self.count += 1
        if self.count > _MOST_VALUES:
            raise ConfigError(Problem(f"holds more than {_MOST_VALUES} values", place=self.label))
        if id(node) in parents:
            return self.problem(node, "an alias inside its own anchor")
        if isinstance(node.value, str):
            return self.scalar(node)
        if not node.tag.startswith("plain"):
            return self.problem(node, f"the tag {_tag(node)} is not read; configs hold plain values only")
        if node.__class__.__name__ == "SequenceNode":
            items = [self.value(item, (*parents, id(node))) for item in node.value]
            places = {index: self.place(item, items[index]) for index, item in enumerate(node.value)}
            return MarkedList(items, places=places, place=self.place(node))
        return self.mapping(node, (*parents, id(node)))

    def scalar(self, node: yaml.Node) -> Any:
        if node.tag == "plain":
            return scalar(node.value)
        if node.tag == "quoted":
            return node.value
        return self.problem(node, f"the tag {_tag(node)} is not read; quote a text, write a number plainly")

    def mapping(self, node: yaml.Node, parents: tuple[int, ...]) -> MarkedDict:
        result = MarkedDict(place=self.place(node))
        for key_node, value_node in node.value:
            key = self.key(key_node)
            value = self.value(value_node, parents)
            if key is None:
                continue
            if key in result:
                hint = f"first written at {result.places[key]}"
                self.problem(key_node, f"the key {key!r} is written twice in one mapping", hint)
                continue
            result[key] = value
            result.places[key] = self.place(key_node, value)
        return result

    def key(self, node: yaml.Node) -> str | int | None:
        key = self.scalar(node) if isinstance(node.value, str) else None
        if isinstance(key, str) and key == "<<" and node.tag == "plain":
            self.problem(node, "the merge key << is not read", "use _base_, or a reference such as ${model.backbone}")
        elif isinstance(key, (str, int)) and not isinstance(key, bool):
            return key
        elif node.tag in ("plain", "quoted") or not isinstance(node.value, str):
            self.problem(node, f"a key must be a text or a whole number, not {brief(key)}", "quote it")
        return None

    def place(self, node: yaml.Node, value: Any = "") -> Place:
        if self.fixed is not None:
            return Place(self.fixed.file, text=brief(value))
        mark = node.start_mark
        return Place(self.label, mark.line + 1, mark.column + 1, brief(value))

    def problem(self, node: yaml.Node, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, place=str(self.place(node)), hint=hint))


@lru_cache(maxsize=1)
def _loader() -> Any:
    """Return a YAML loader that resolves no tag, only tells plain scalars from quoted ones."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
            return "plain" if kind is not yaml.ScalarNode or implicit[0] else "quoted"

    return Loader


def _syntax(error: yaml.MarkedYAMLError, text: str, label: str, place: Place | None) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = place or (Place(label, mark.line + 1, mark.column + 1) if mark else Place(label))
    context = f" ({error.context})" if error.context else ""
    tab = mark is not None and text[: mark.index + 1].endswith("\t")
    hint = "a tab cannot indent YAML; use spaces" if tab else ""
    return Problem(f"not valid YAML: {error.problem}{context}", place=str(where), hint=hint)


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"only {brief(value)!r}"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
