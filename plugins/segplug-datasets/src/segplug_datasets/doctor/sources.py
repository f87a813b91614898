"""Checks of class names and their order against the class list that comes with a data set.

Known lists: ADE20K's ``objectInfo150.txt``, CVAT's and Pascal's ``labelmap.txt``, ``labels.txt`` and ``classes.txt``
(one name, or ``id: name``, per line), ``label_colors.txt`` (``r g b name``), ``class_dict.csv``, ``classes.json``,
Cityscapes' ``labels.py``, and the ``labels`` of the ``dataset.json`` of the Medical Segmentation Decathlon and nnU-Net
or of Mapillary's ``config.json``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segkernel.errors import DataError, did_you_mean
from segplug_datasets.doctor.findings import Finding, config_lines
from segplug_datasets.doctor.parts import Part
from segplug_datasets.listing import read_text

NAMES = ("objectInfo150.txt", "labelmap.txt", "label_map.txt", "labels.txt", "classes.txt", "label_colors.txt",
         "class_dict.csv", "classes.json", "dataset.json", "config.json", "labels.py")  # fmt: skip

Entry = tuple[int | None, tuple[str, ...]]
"""The value of a class in the files, if the list gives it, and its names: the first one and synonyms."""

_BACKGROUND = ("background", "unlabeled", "unlabelled", "void", "_background_", "__background__", "other", "others")


def check_sources(parts: Sequence[Part]) -> Iterator[Finding]:
    """Yield sets whose classes differ from the class list next to their files."""
    seen: set[tuple[Path, tuple[str, ...]]] = set()
    for part in parts:
        for path in _lists(part):
            entries = read_list(path)
            classes = part.labels.classes if part.labels else ()
            if not entries or (path, classes) in seen:
                continue
            seen.add((path, classes))
            same = [p for p in parts if (p.labels.classes if p.labels else ()) == classes]
            yield from filter(None, [_compare(path, entries, classes, same)])


def _lists(part: Part) -> list[Path]:
    """Return class lists in the folders of a set, up to two levels above its files."""
    folders = [Path(part.arguments["data_root"])] if part.arguments.get("data_root") else []
    if part.folders is not None:
        for place in filter(None, (part.folders.images, part.folders.masks)):
            folders += [place, *list(place.parents)[:2]]
    found = (folder / name for folder in dict.fromkeys(folders) for name in NAMES)
    return [path for path in found if path.is_file()]


def read_list(path: Path) -> list[Entry]:
    """Return the classes in a list, in order; empty if it is not a class list."""
    try:
        text = read_text(path)
        if path.suffix == ".json":
            return _json(json.loads(text))
        if path.suffix == ".csv":
            return [(None, (row[0].strip(),)) for row in csv.reader(text.splitlines()[1:]) if row]
        if path.suffix == ".py":
            return _cityscapes(text)
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if path.name.startswith("objectInfo"):
            return [_object_info(line) for line in lines[1:]]
        return [_line(line) for line in lines]
    except (DataError, ValueError, RecursionError, IndexError, AttributeError, TypeError):
        return []


def _object_info(line: str) -> Entry:
    cells = line.split("\t") if "\t" in line else re.split(r"\s{2,}", line)
    return int(cells[0]), tuple(name.strip() for name in re.split(r"[,;]", cells[-1]))


def _line(line: str) -> Entry:
    """Read ``name``, ``id: name``, ``id name``, ``r g b name``, ``name r g b`` or ``name:r,g,b:parts:actions``."""
    colored = re.fullmatch(r"\d+[ ,]+\d+[ ,]+\d+\s+(.+)", line)
    name = without_color(colored[1] if colored else line)
    if colored or name != line:
        return None, (name.strip(),)
    numbered = re.fullmatch(r"(\d+)\s*[:,=\s]\s*(.+)", line)
    if numbered:
        return int(numbered[1]), tuple(name.strip() for name in numbered[2].split(","))
    return None, (re.split(r":\s*\d", line)[0].strip(": "),)


def without_color(text: str) -> str:
    """Return a text without three numbers at its end: ``road`` for ``road 128 64 128`` or ``road, (128, 64, 128)``."""
    return re.sub(r"[\s,:;(\[]+\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3}[)\]]?$", "", text)


def _cityscapes(text: str) -> list[Entry]:
    rows = re.findall(r"Label\(\s*'([^']+)'\s*,\s*(-?\d+)\s*,\s*(-?\d+)", text)
    found = {int(train): name for name, _, train in rows if 0 <= int(train) < 255}
    return [(train, (found[train],)) for train in sorted(found)]


def _json(content: Any) -> list[Entry]:
    if isinstance(content, dict) and isinstance(content.get("classes"), list):
        return [(None, (str(name),)) for name in content["classes"] if isinstance(name, str)]
    labels = content.get("labels") if isinstance(content, dict) else None
    if isinstance(labels, dict):  # {"0": "background"} of the Decathlon, {"background": 0} of nnU-Net
        pairs = [(k, v) if str(k).isdigit() else (v, k) for k, v in labels.items()]
        return sorted((int(value), (str(name),)) for value, name in pairs if str(value).isdigit())
    if isinstance(labels, list):
        return [(None, (str(label.get("readable") or label["name"]), str(label["name"]))) for label in labels]
    return []


def _compare(path: Path, entries: Sequence[Entry], classes: Sequence[str], parts: Sequence[Part]) -> Finding | None:
    """Return a finding on the difference between classes and a list; None when they agree."""
    where = ", ".join(part.name for part in parts)
    listed = [names for _, names in entries]
    if not classes:
        return None
    if _agree(classes, listed) or _agree(classes, _without_background(listed)):
        return None
    order = [_place(name, listed) for name in classes]
    known = [place for place in order if place is not None]
    names = [names[0] for names in listed]
    if len(known) < 0.5 * len(classes) and len(known) < 0.5 * len(listed):
        return None  # a list of something else
    if len(known) == len(classes) and known != sorted(known):
        shift = int(len(listed) > len(classes) and _normal(names[0]) in _BACKGROUND)
        first = next((i for i, place in enumerate(order) if place != i + shift), 0)
        there = names[min(first + shift, len(names) - 1)]
        what = f"the order of classes differs from {path}: class {first} is {classes[first]!r}, there {there!r}"
        why = "The order assigns values to names: in another order the names are wrong."
        return Finding("error", "class-order", where, what, why, [str(path)],
                       fix=config_lines(parts, {"classes": names[shift:]}))  # fmt: skip
    if len(known) == len(classes):
        what = f"{len(classes)} classes, but {path} lists {len(listed)}"
        why = f"Not among them: {', '.join(_missing(listed, classes)[:8])}."
        return Finding("warning", "class-count", where, what, why, [str(path)],
                       fix=config_lines(parts, {"classes": names}))  # fmt: skip
    strange = [name for name, place in zip(classes, order) if place is None]
    near = did_you_mean(strange[0], names, 1)
    what = f"{len(strange)} class names are not in {path}: {', '.join(strange[:5])}"
    why = f"Did you mean {near[0]!r} instead of {strange[0]!r}?" if near else f"It lists {', '.join(names[:8])} ..."
    return Finding("warning", "class-names", where, what, why, [str(path)])


def _without_background(listed: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
    return listed[1:] if listed and _normal(listed[0][0]) in _BACKGROUND else listed


def _agree(classes: Sequence[str], listed: Sequence[tuple[str, ...]]) -> bool:
    return len(classes) == len(listed) and all(_is(name, names) for name, names in zip(classes, listed))


def _place(name: str, listed: Sequence[tuple[str, ...]]) -> int | None:
    return next((place for place, names in enumerate(listed) if _is(name, names)), None)


def _missing(listed: Sequence[tuple[str, ...]], classes: Sequence[str]) -> list[str]:
    return [names[0] for names in listed if not any(_is(name, names) for name in classes)]


def _is(name: str, names: Sequence[str]) -> bool:
    return _normal(name) in map(_normal, names)


def _normal(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().lower()
