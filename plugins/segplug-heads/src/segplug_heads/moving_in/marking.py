"""Moving values between mappings that remember where each was written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, Place


def put(target: MarkedDict, key: str, source: Mapping[Any, Any], old: str | None = None) -> None:
    """Set ``target[key]`` to ``source[old]``, with its place, if the source has it."""
    old = key if old is None else old
    if old in source:
        target[key] = source[old]
        place = getattr(source, "places", {}).get(old) or getattr(source, "place", None)
        if place is not None:
            target.places[key] = place


def made(place: Place | None = None, **values: Any) -> MarkedDict:
    """Return a mapping whose values all stand at one place."""
    return MarkedDict(values, places=dict.fromkeys(values, place) if place else {}, place=place)


def where(holder: Any, key: Any = None) -> Place | None:
    """Return the place of ``holder[key]``, or of the holder."""
    place = getattr(holder, "place", None)
    return getattr(holder, "places", {}).get(key, place) if key is not None else place


def plain(value: Any) -> Any:
    """Return a deep copy of marked mappings and lists; tuples become lists, places stay."""
    if isinstance(value, Mapping):
        copy = MarkedDict(place=getattr(value, "place", None), places=getattr(value, "places", None))
        copy.update({key: plain(item) for key, item in value.items()})
        return copy
    if isinstance(value, (list, tuple)):
        places = getattr(value, "places", None)
        return MarkedList([plain(item) for item in value], places=places, place=getattr(value, "place", None))
    return value


def types_in(value: Any, path: str = "") -> Iterable[tuple[str, MarkedDict]]:
    """Yield every mapping with a ``type`` inside a value, with its dotted key."""
    if isinstance(value, MarkedDict):
        if isinstance(value.get("type"), str):
            yield path, value
        for key, item in value.items():
            yield from types_in(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from types_in(item, f"{path}[{index}]")
