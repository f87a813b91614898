"""Label spaces of data sets: selecting, renaming and merging classes.

classes: [road, car, bus]                                    some, in this order
classes: {road: road, vehicle: [car, bus], other: []}        renamed and merged
others: other                                                class of the remaining ones
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from segkernel.errors import UsageError, suggest
from segkernel.labels import IGNORE, Color, default_palette
from segplug_datasets.label_spec import LabelSpec

Classes = Sequence[str] | Mapping[str, str | Sequence[str]]
"""Existing names in the desired order, or new names, each with the existing ones it merges."""


class Metainfo(TypedDict, total=False):
    """The classes of a data set to keep, in order.

    ``classes``: some of the names; or a mapping of new names, each to the name or names it merges.
    ``palette``: a colour for each; those of the data set by default.
    ``others``: the class (one of ``classes``) of the remaining ones; they are ignored by default.
    ``background``: the class of values that the data set does not define; they are errors by default.
    """

    classes: Classes
    palette: Sequence[Color]
    others: str | None
    background: str | None


def regroup(names: Sequence[str], classes: Classes | None, others: str | None = None) -> tuple[list[str], list[int]]:
    """Return the new class names and the new id of each of the old ``names``, or `IGNORE`.

    Raises:
        UsageError: When a name does not exist or occurs twice, or ``others`` is not a class.
    """
    if classes is None:
        classes = names
    groups = _groups(classes, names, others)
    mentioned = [name for members in groups.values() for name in members]
    for name in mentioned:
        require_name(name, names)
    _refuse_twice(mentioned)
    if others is not None:
        require_name(others, groups, "'others' must be one of the classes: ")
    rest = IGNORE if others is None else list(groups).index(others)
    place = {name: new for new, members in enumerate(groups.values()) for name in members}
    return list(groups), [place.get(name, rest) for name in names]


def choose_classes(labels: LabelSpec, metainfo: Metainfo) -> LabelSpec:
    """Return the labels of the same files with the classes selected or grouped by ``metainfo``.

    Raises:
        UsageError: As `regroup`; also when the palette does not fit.
    """
    return choose(labels, metainfo)[0]


def choose(labels: LabelSpec, metainfo: Metainfo) -> tuple[LabelSpec, list[int]]:
    """Return the result of `choose_classes` and the new id of each old class id.

    Raises:
        UsageError: As `choose_classes`.
    """
    classes, ids = regroup(labels.classes, metainfo.get("classes") or None, metainfo.get("others"))
    palette = tuple(metainfo.get("palette") or regrouped_palette(labels.palette, ids, len(classes)))
    background = metainfo.get("background") or _renamed(labels, classes, ids)
    if ids == list(range(len(classes))):
        return replace(labels, classes=tuple(classes), palette=palette, background=background), ids
    old = labels.values or {old + labels.offset: old for old in range(len(labels.classes))}
    values = {value: IGNORE if class_id == IGNORE else ids[class_id] for value, class_id in old.items()}
    below = range(0 if labels.values else labels.offset)
    ignore = (*labels.ignore, *below)
    return LabelSpec(tuple(classes), palette, ignore, 0, values, background, task=labels.task), ids


def _renamed(labels: LabelSpec, classes: Sequence[str], ids: Sequence[int]) -> str | None:
    """Return the new name of the background class."""
    if labels.background is None:
        return None
    new = ids[labels.classes.index(labels.background)]
    if new == IGNORE:
        raise UsageError(f"'metainfo' leaves out {labels.background!r}, the background: set 'background'")
    return classes[new]


def regrouped_palette(palette: Sequence[Color], ids: Sequence[int], count: int) -> list[Color]:
    """Return colours for ``count`` new classes: that of the first old class in each, or from a fixed table."""
    colors = list(default_palette(count))
    for color, new in reversed(list(zip(palette, ids))):
        if new != IGNORE:
            colors[new] = color
    return colors


def require_name(name: str, names: Iterable[str], before: str = "") -> None:
    """Raise a `UsageError` that suggests the nearest name unless ``name`` is one of ``names``."""
    known = list(names)
    if name not in known:
        raise UsageError(f"{before}no class is called {name!r}: {suggest(name, known)}")


def _groups(classes: Classes, names: Sequence[str], others: str | None) -> dict[str, list[str]]:
    """Return the old names in each new class; ``others`` may be a new class."""
    if isinstance(classes, Mapping):
        return {new: [old] if isinstance(old, str) else list(old) for new, old in classes.items()}
    _refuse_twice(list(classes))
    return {name: [] if name == others and name not in names else [name] for name in classes}


def _refuse_twice(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"'classes' has a class twice: {twice!r}")
