"""Merging one config into another: deep merge, `_delete_`, changed types, ``key+:`` and ``~key:``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, Place, as_list, place_of, summarize
from segkernel.errors import Problem, suggest


def merge(base: Any, over: Any, problems: list[Problem], path: str = "") -> Any:
    """Return ``base`` with ``over`` merged into it; neither is modified.

    Mappings merge deep, everything else replaces. In ``over``, ``_delete_: true`` or a changed ``type`` drops the
    base's content, ``key+: [..]`` appends to its list and ``~key:`` removes its key.

    Args:
        base: The lower layer; merged if both are mappings, else replaced.
        over: The upper layer, marked.
        problems: Appends and removals without a target are added here.
        path: The dotted key of both, for problems.
    """
    if isinstance(over, MarkedList):
        items = [merge(None, item, problems, f"{path}[{index}]") for index, item in enumerate(over)]
        return MarkedList(items, places=over.places, place=over.place)
    if not isinstance(over, MarkedDict):
        return over
    result = _start(base, over, problems, path)
    for key, value in over.items():
        if key == "_delete_":
            continue
        place = over.places.get(key)
        if key == "_base_":
            problems.append(Problem("is only allowed at the top level of a file", join(path, key), str(place or "")))
        elif isinstance(key, str) and len(key) > 1 and key.startswith("~"):
            _remove(result, key[1:], value, place, problems, path)
        elif isinstance(key, str) and len(key) > 1 and key.endswith("+"):
            _append(result, key[:-1], as_list(over, key), place, problems, join(path, key[:-1]))
        else:
            result[key] = merge(result.get(key), value, problems, join(path, key))
            _set_place(result, key, place)
    return result


def join(path: str, key: Any) -> str:
    """Return ``path.key``."""
    return f"{path}.{key}" if path else str(key)


def _start(base: Any, over: MarkedDict, problems: list[Problem], path: str) -> MarkedDict:
    """Return what ``over`` is merged into: the base, or an empty mapping where ``over`` replaces it."""
    delete = over.get("_delete_", False)
    if not isinstance(delete, bool):
        where = place_of(over, "_delete_")
        problems.append(Problem(f"must be true or false, not {summarize(delete)}", join(path, "_delete_"), where))
    if not isinstance(base, MarkedDict):
        return MarkedDict(place=over.place)
    old_type = base.get("type")
    if "type" in over and old_type is not None and over["type"] != old_type:
        why = f"dropped, as type changed from {old_type}"
    elif delete is True:
        why = "dropped by _delete_"
    else:
        place = over.place.over(base.place) if over.place else base.place
        return MarkedDict(base, places=base.places, place=place)
    dropped = {key: replace(over.place, text=why, before=old) for key, old in base.places.items() if over.place}
    return MarkedDict(places=dropped, place=over.place)


def _remove(result: MarkedDict, key: str, value: Any, place: Place | None, problems: list[Problem], path: str) -> None:
    if value is not None:
        problems.append(Problem("removes a key and takes no value", join(path, f"~{key}"), str(place or "")))
    elif key not in result:
        problems.append(Problem("no such key to remove", join(path, key), str(place or ""), suggest(key, result)))
    else:
        del result[key]
        _set_place(result, key, replace(place, text="removed") if place else None)


def _append(
    result: MarkedDict, key: str, more: MarkedList, place: Place | None, problems: list[Problem], path: str
) -> None:
    old = MarkedList(place=place) if result.get(key) is None else result[key]
    if isinstance(old, MarkedList):
        result[key] = old + merge(None, more, problems, path)
        _set_place(result, key, replace(place, text=f"+ {summarize(more)}") if place else None)
    else:
        problems.append(Problem(f"cannot append to {summarize(old)}, which is not a list", path, str(place or "")))


def _set_place(result: MarkedDict, key: Any, place: Place | None) -> None:
    if place is not None:
        result.places[key] = place.over(result.places.get(key))
