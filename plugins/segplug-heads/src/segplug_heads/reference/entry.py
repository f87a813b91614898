"""One entry of the reference, and how it is written for a terminal and for a page."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass

from segkernel.catalog import Row
from segkernel.signature import EMPTY, Parameter, describe
from segplug_heads.reference.docstrings import argument_text
from segplug_heads.reference.yaml_text import flow


@dataclass(frozen=True)
class Argument:
    """An argument, an option or a key: its name, its type, its default as written in YAML, and its description."""

    name: str
    type: str
    default: str
    text: str


@dataclass(frozen=True)
class Entry:
    """One thing with a name.

    Args:
        title: The name.
        kind: What it is: ``heads component``, ``config key``.
        text: Paragraphs.
        arguments: Those of a constructor, the keys of a section, or the options of a command.
        names: Names that can be looked up next, with a heading.
        example: Language and text of an example; empty without one.
        source: Package and module.
    """

    title: str
    kind: str
    text: str = ""
    arguments: Sequence[Argument] = ()
    names: tuple[str, Sequence[str]] = ("", ())
    example: tuple[str, str] = ("", "")
    source: str = ""
    heading: str = field(default="arguments")

    def plain(self) -> str:
        """Return the entry for a terminal."""
        return re.sub(r"\n{3,}", "\n\n", "\n".join(_plain(self)))

    def markdown(self, level: int = 2) -> str:
        """Return the entry as a section of a page, whose heading has this level."""
        return "\n".join(_markdown(self, level)).rstrip() + "\n"


_FACTORY = inspect.signature(make_dataclass("_", [("x", int, field(default_factory=int))])).parameters["x"].default
"""The default in the signature of a dataclass whose field has a ``default_factory``."""


def arguments_of(parameters: Iterable[Parameter]) -> list[Argument]:
    """Return the arguments of a signature, the required ones first."""
    return sorted(map(_argument, parameters), key=lambda each: each.default != "required")


def _argument(parameter: Parameter) -> Argument:
    known = parameter.default is not EMPTY and not isinstance(parameter.default, type(_FACTORY))
    default = "required" if parameter.required else flow(parameter.default) if known else ""
    return Argument(parameter.name, describe(parameter.annotation), default, argument_text(parameter))


def source_of(row: Row, version: bool = True) -> str:
    """Return the package of a component and the module that defines it."""
    package = f"{row.distribution} {row.version}" if version else row.distribution
    return f"{package}, {row.value}" if row.distribution else row.value


def _plain(entry: Entry) -> Iterator[str]:
    yield f"{entry.title}  ({entry.kind})"
    for paragraph in entry.text.replace("``", "`").split("\n\n") if entry.text else ():
        yield from (textwrap.fill(paragraph, 110), "")
    if entry.arguments:
        yield entry.heading
    for each in entry.arguments:
        kind = f": {each.type}" if each.type else ""
        default = {"required": ", required", "": ""}.get(each.default, f" = {each.default}")
        yield f"  {each.name}{kind}{default}"
        text = each.text.replace("``", "`")
        yield from textwrap.wrap(text, 104, initial_indent="      ", subsequent_indent="      ")
    heading, names = entry.names
    if names:
        listed = textwrap.fill(
            ", ".join(names), 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
        )
        yield from ("", heading, listed)
    if entry.example[1]:
        yield from ("", "example")
        yield textwrap.indent(entry.example[1].rstrip(), "  ")
    if entry.source:
        yield from ("", f"source: {entry.source}")


def _markdown(entry: Entry, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} `{entry.title}`", "")
    if entry.text:
        yield from (_escaped(entry.text), "")
    if entry.arguments:
        yield from _table(entry)
        yield ""
    heading, names = entry.names
    if names:
        yield from (f"{heading}: {', '.join(f'`{name}`' for name in names)}", "")
    if entry.example[1]:
        yield from (f"```{entry.example[0]}", entry.example[1].rstrip(), "```", "")
    if entry.source:
        yield from (f"<small>{entry.source}</small>", "")


def _table(entry: Entry) -> Iterator[str]:
    """Yield the arguments as a table, without columns that are empty."""
    heads = (entry.heading.removesuffix("s"), "type", "default", "description")
    rows = [
        (
            _code(each.name),
            _escaped(each.type),
            "required" if each.default == "required" else _code(each.default),
            _escaped(each.text),
        )
        for each in entry.arguments
    ]
    used = [column for column in range(len(heads)) if any(row[column] for row in rows)]
    for cells in (heads, ("---",) * len(heads), *rows):
        yield f"| {' | '.join(cells[column] for column in used)} |"


def _code(text: str) -> str:
    return f"`{text.replace('|', '&#124;')}`" if text else ""


def _escaped(text: str) -> str:
    """Return prose for a page: double backticks of docstrings are single ones, and signs of HTML and tables text."""
    parts = text.replace("``", "`").split("`")
    signs = {"|": "\\|", "<": "&lt;", "*": "\\*", "_": "\\_", "[": "\\["}
    prose = ["".join(signs.get(sign, sign) for sign in part) for part in parts[::2]]
    code = [part.replace("|", "\\|") for part in parts[1::2]]
    joined = [piece for pair in zip(prose, [*(f"`{part}`" for part in code), ""]) for piece in pair]
    return "".join(joined)
