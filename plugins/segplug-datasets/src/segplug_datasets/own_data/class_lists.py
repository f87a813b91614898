"""Class names, with their values and colours, from a class list next to the data."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segkernel.errors import SegKernelError
from segkernel.labels import IGNORE, Color
from segplug_datasets.doctor.sources import NAMES, read_list, without_color
from segplug_datasets.listing import read_text

_KEYS = ("classes", "names", "labels", "categories", "class_names")
_COLORS = ("palette", "palette_rgb", "colors", "colours")
_IGNORED = ("ignore_index", "ignore_label", "ignore", "void")

_MOST_FILES = 10  # YAML files read per folder; more are usually one per image


@dataclass(frozen=True)
class ClassList:
    """The contents of a class list file.

    Args:
        path: The file.
        names: Class names in their order.
        values: The value of each in the masks; empty if not in the file.
        colors: The colour of each; empty if not in the file.
        ignore: Values of the masks that are not classes.
    """

    path: Path
    names: tuple[str, ...]
    values: tuple[int, ...] = ()
    colors: tuple[Color, ...] = ()
    ignore: tuple[int, ...] = ()


def find_class_lists(folders: Iterable[Path]) -> list[ClassList]:
    """Return the lists of at least two classes in some folders; files with usual names come first."""
    lists = []
    for folder in dict.fromkeys(folders):
        known = [folder / name for name in NAMES if (folder / name).is_file()]
        for path in [*known, *sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])[:_MOST_FILES]]:
            found = _read(path)
            if found is not None and len(found.names) > 1 and len(set(found.names)) == len(found.names):
                lists.append(found)
    return lists


def _read(path: Path) -> ClassList | None:
    try:
        if path.suffix in (".json", ".yaml", ".yml"):
            text = read_text(path)
            return _structured(path, json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))
        rows = [row for row in map(_cells, read_text(path).splitlines()) if row]
    except (SegKernelError, ValueError, RecursionError, yaml.YAMLError):
        return None
    entries = read_list(path)
    names = tuple(names[0] for _, names in entries)
    colors = _row_colors(rows, names)
    values = tuple(value for value, _ in entries if value is not None)
    return ClassList(path, names, values if len(values) == len(names) else (), colors) if names else None


def _structured(path: Path, content: Any) -> ClassList | None:
    if isinstance(content, list):
        content = {"classes": content}
    given = next((content[key] for key in _KEYS if content.get(key)), None) if isinstance(content, Mapping) else None
    names, values, colors = _entries(given)
    if not names:
        return None
    colors = colors or next((_colors(content.get(key)) for key in _COLORS if content.get(key)), ())
    ignored = next((content[key] for key in _IGNORED if content.get(key) is not None), ())
    several = ignored if isinstance(ignored, list) else [ignored]
    ignore = tuple(value for value in several if isinstance(value, int) and value != IGNORE)
    return ClassList(path, names, values, colors if len(colors) == len(names) else (), ignore)


def _entries(given: Any) -> tuple[tuple[str, ...], tuple[int, ...], tuple[Color, ...]]:
    """Return names, values and colours of a list of names or of mappings, or of a mapping of values and names."""
    if isinstance(given, Mapping):
        pairs = [(key, name) if str(key).isdigit() else (name, key) for key, name in given.items()]
        if not all(str(value).isdigit() and isinstance(name, str) for value, name in pairs):
            return (), (), ()
        pairs = sorted((int(value), name) for value, name in pairs)
        return tuple(name for _, name in pairs), tuple(value for value, _ in pairs), ()
    if not isinstance(given, list):
        return (), (), ()
    if all(isinstance(one, str) for one in given):
        return tuple(given), (), ()
    if all(isinstance(one, Mapping) and isinstance(one.get("name"), str) for one in given):
        values = tuple(one["id"] for one in given if isinstance(one.get("id"), int))
        colors = _colors([one.get("color") for one in given])
        return tuple(one["name"] for one in given), values if len(values) == len(given) else (), colors
    return (), (), ()


def _colors(given: Any) -> tuple[Color, ...]:
    if not isinstance(given, list) or not all(isinstance(one, list) and len(one) >= 3 for one in given):
        return ()
    return tuple((int(one[0]), int(one[1]), int(one[2])) for one in given)


def _cells(line: str) -> list[str]:
    """Return the columns of a line of ``name,r,g,b``, ``r g b name``, ``name r g b`` or ``name:r,g,b::``."""
    line = line.strip()
    if not line or line.startswith("#"):
        return []
    return [cell.strip() for cell in (next(csv.reader([line])) if ":" not in line else re.split(r"[:,]", line))]


def _row_colors(rows: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[Color, ...]:
    found: dict[str, Color] = {}
    for row in rows:
        joined = " ".join(row)
        numbers = [int(number) for number in re.findall(r"(?<![\w.])\d+(?![\w.])", joined)]
        rest = re.sub(r"^[\d ,]+", "", joined).strip(), without_color(joined)
        name = next((name for name in names if name in (*row, *rest)), None)
        if name is not None and len(numbers) == 3 and max(numbers) < 256:
            found[name] = numbers[0], numbers[1], numbers[2]
    return tuple(found[name] for name in names) if set(found) == set(names) else ()
