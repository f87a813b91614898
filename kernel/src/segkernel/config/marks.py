"""Containers that remember where each value was written.

`MarkedDict` and `MarkedList` are a dict and a list; only `place_of` looks at the marks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex


@dataclass(frozen=True)
class Place:
    """Where a value was written, and the place that it overrode.

    Args:
        file: A path, a packaged name (``segplug-heads::families/pspnet.yaml``) or ``command line``.
        line: Counted from 1; 0 without lines.
        column: Counted from 1.
        text: The value as written, abbreviated.
        before: The place that this one overrode.
    """

    file: str
    line: int = 0
    column: int = 0
    text: str = field(default="", compare=False)
    before: Place | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def over(self, before: Place | None) -> Place:
        """Return this place as one that overrides ``before``."""
        if before is None:
            return self
        return replace(self, before=before if self.before is None else self.before.over(before))


class MarkedDict(dict[Any, Any]):
    """A dict whose ``places`` record where each key was written; removed keys keep theirs."""

    def __init__(self, *args: Any, places: Mapping[Any, Place] | None = None, place: Place | None = None) -> None:
        super().__init__(*args)
        self.places: dict[Any, Place] = dict(places or {})
        self.place = place

    def copy(self) -> MarkedDict:
        """Return a shallow copy with the same marks."""
        return MarkedDict(self, places=self.places, place=self.place)

    def without(self, *keys: Any) -> MarkedDict:
        """Return a shallow copy without some keys and their marks."""
        kept, places = ({key: held[key] for key in held if key not in keys} for held in (self, self.places))
        return MarkedDict(kept, places=places, place=self.place)


class MarkedList(list[Any]):
    """A list whose ``places`` record where each item was written; slices, sums and copies keep them."""

    def __init__(self, *args: Any, places: Mapping[int, Place] | None = None, place: Place | None = None) -> None:
        super().__init__(*args)
        self.places: dict[int, Place] = dict(places or {})
        self.place = place

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if not isinstance(index, slice):
            return super().__getitem__(index)
        places = {new: self.places[old] for new, old in enumerate(range(len(self))[index]) if old in self.places}
        return MarkedList(super().__getitem__(index), places=places, place=self.place)

    def __add__(self, other: Any) -> MarkedList:
        moved = {len(self) + index: place for index, place in getattr(other, "places", {}).items()}
        return MarkedList(super().__add__(other), places={**self.places, **moved}, place=self.place)

    def copy(self) -> MarkedList:
        """Return a shallow copy with the same marks."""
        return self[:]


def place_of(container: Any, key: Any = None) -> str:
    """Return where ``container[key]``, or the container itself, was written; "" if unknown."""
    place = getattr(container, "place", None)
    if key is not None:
        place = getattr(container, "places", {}).get(key, place)
    return str(place) if isinstance(place, Place) else ""


def as_list(container: MarkedDict, key: Any) -> MarkedList:
    """Return ``container[key]`` as a list: a single item is wrapped in one, a missing key is an empty one."""
    value, place = container.get(key, MarkedList()), container.places.get(key)
    places = {0: place} if place else {}
    return value if isinstance(value, MarkedList) else MarkedList([value], places=places, place=place)


def mark(value: Any) -> Any:
    """Turn mappings, lists and tuples into marked ones, deeply; existing marks are kept."""
    marks = {"places": getattr(value, "places", None), "place": getattr(value, "place", None)}
    if isinstance(value, Mapping):
        return MarkedDict({key: mark(item) for key, item in value.items()}, **marks)
    if isinstance(value, (list, tuple)):
        return MarkedList([mark(item) for item in value], **marks)
    return value


def to_builtin(value: Any) -> Any:
    """Return dicts and lists without their marks, deeply; other values are returned as they are."""
    if isinstance(value, dict):
        return {key: to_builtin(item) for key, item in value.items()}
    return [to_builtin(item) for item in value] if isinstance(value, list) else value


def summarize(value: Any) -> str:
    """Describe a value in one line, as config text."""
    if isinstance(value, Mapping):
        return f"{{type: {value['type']}, ...}}" if "type" in value else "{...}" if value else "{}"
    if isinstance(value, (list, tuple)):
        deep = any(isinstance(item, (Mapping, list)) for item in value)
        return f"[{len(value)} items]" if deep else f"[{', '.join(map(summarize, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
