"""Component names of MMSegmentation's configs under our names; the table is `segplug_heads.former_names`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList
from segplug_heads.former_names import SAME_SCOPES, SCOPED


def our_name(name: str) -> str:
    """Return our name of ``scope.Name`` or ``Name``; an import path, ``module:Name``, is one already.

    Raises:
        KeyError: The scoped name is not in the table.
    """
    scope, _, short = name.rpartition(".")
    return name if ":" in name else short if scope in ("", *SAME_SCOPES) else SCOPED[name]


def translate(config: Any) -> Any:
    """Return a deep copy in which every ``type`` has our name; unknown scoped names stay as they are."""
    if isinstance(config, (list, tuple)):
        items = [translate(entry) for entry in config]
        return MarkedList(items, places=getattr(config, "places", None), place=getattr(config, "place", None))
    if not isinstance(config, dict):
        return config
    copy = MarkedDict(place=getattr(config, "place", None), places=getattr(config, "places", None))
    copy.update({key: translate(value) for key, value in config.items()})
    name, own_scope = copy.get("type"), copy.pop("_scope_", "")
    if isinstance(name, str):
        scoped = f"{own_scope}.{name}"
        name = scoped if "." not in name and scoped in SCOPED else name
        with suppress(KeyError):
            copy["type"] = our_name(name)
    return copy
