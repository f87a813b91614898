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


def section(config: Mapping[Any, Any], key: Any) -> MarkedDict:
    """Return the mapping ``config[key]``; an empty one if it is missing or something else."""
    value = config.get(key)
    return value if isinstance(value, MarkedDict) else MarkedDict()


def as_list(value: Any) -> list[Any]:
    """Return a list; a single value as a list of it, None as an empty one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def kind_of(spec: Any) -> str:
    """Return the ``type`` of a mapping, or a name that stands for it, without its scope."""
    return str(spec.get("type", "") if isinstance(spec, Mapping) else spec).rpartition(".")[2]


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
