"""Checks of a run's length: it is given once, and the schedule and the validations fit into it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from typing_extensions import TypeIs

from segkernel.config import Config
from segkernel.config.marks import MarkedDict, place_of
from segkernel.errors import Problem

log = logging.getLogger(__name__)

WARM_UP = 0.1
"""Share of a run that a schedule before the main one gets in the hint."""


def check_length(config: Config) -> list[Problem]:
    """Return the problem of a schedule with both ``iterations`` and ``epochs``; warn of parts that begin or end later.

    Those are no error: a short run of a published config is a usual test.
    """
    section = config.get("schedule")
    if not isinstance(section, MarkedDict):
        return []
    if None in (section.get("iterations"), section.get("epochs")):
        if text := overlong_text(section):
            log.warning("%s", text)
        return []
    # What the command line sets is meant; the other is of the file or its base.
    kept, removed = "epochs", "iterations"
    if place_of(section, "iterations").startswith("command line"):
        kept, removed = removed, kept
    message = f"is set together with schedule.{removed} ({place_of(section, removed)}); a run has one length"
    return [Problem(message, f"schedule.{kept}", place_of(section, kept), f"~schedule.{removed} removes the other")]


def overlong_text(section: Mapping[str, Any], known: Mapping[str, float] | None = None) -> str:
    """Return a warning of the numbers in a section ``schedule`` that exceed the length of the run, "" without any.

    Numbers are compared with the length in their unit, where it is known.

    Args:
        section: Those of a config.
        known: Length of the run by unit, ``iterations`` and ``epochs``; None is that of the section, in one unit.
    """
    unit = "iterations" if section.get("iterations") is not None else "epochs"
    lengths: dict[str, Any] = {unit: section.get(unit)}
    if not _is_number(lengths[unit]):
        return ""
    lengths |= {each: length for each, length in (known or {}).items() if each != unit}
    parts = section.get("lr") or ()
    parts = [part if isinstance(part, Mapping) else {} for part in (parts if isinstance(parts, list) else [parts])]
    too_long = {key: found for each in lengths for key, found in _overlong(parts, each, lengths[each])}
    interval: Any = section.get("val_interval")
    if _is_number(interval) and interval > lengths[unit]:
        too_long["val_interval"] = interval, max(math.floor(lengths[unit] / 10), 1)
    if not too_long:
        return ""
    first, *others = (f"{length:,.6g} {each if length != 1 else each[:-1]}" for each, length in lengths.items())
    number = f"{first} (schedule.{unit})" + "".join(f", which are {other}" for other in others)
    found = ", ".join(f"schedule.{key} is {value:,}" for key, (value, _) in too_long.items())
    changes = " ".join(f"schedule.{key}={fitting}" for key, (_, fitting) in too_long.items())
    return (
        f"the run has {number}, but {found}: a plan for a longer run\n    set {changes}\n"
        "    or let seg-kernel init FOLDER --model NAME write a schedule of the right length"
    )


def _overlong(parts: list[Mapping[str, Any]], unit: str, length: float) -> Iterator[tuple[str, tuple[float, int]]]:
    """Yield the keys of schedules in a unit whose number exceeds the length, with that number and one that fits."""
    parts = [part if bool(part.get("by_epoch")) == (unit == "epochs") else {} for part in parts]
    ends = [part[key] for part in parts for key in ("begin", "end") if _is_number(part.get(key))]
    # A last part without an end fills the run: those before it are a warm-up.
    planned = max(ends, default=0) / (WARM_UP if any("type" in part and not part.get("end") for part in parts) else 1)
    for index, part in enumerate(parts):
        for key in ("begin", "end"):
            value: Any = part.get(key)
            if _is_number(value) and (value > math.ceil(length) or (key == "begin" and value >= length)):
                yield f"lr[{index}].{key}", (value, max(round(value * length / planned), 1))


def _is_number(value: Any) -> TypeIs[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
