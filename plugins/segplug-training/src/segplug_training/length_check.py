"""A check of ``config check``: a run is given its length once, in iterations or in epochs."""

from __future__ import annotations

from segkernel.config import Config
from segkernel.config.marks import MarkedDict, place_of
from segkernel.errors import Problem


def check_length(config: Config) -> list[Problem]:
    """Return the problem of a schedule with both ``iterations`` and ``epochs``."""
    section = config.get("schedule")
    if not isinstance(section, MarkedDict) or None in (section.get("iterations"), section.get("epochs")):
        return []
    # What the command line sets is meant; the other is of the file or its base.
    kept, removed = "epochs", "iterations"
    if place_of(section, "iterations").startswith("command line"):
        kept, removed = removed, kept
    message = f"is set together with schedule.{removed} ({place_of(section, removed)}); a run has one length"
    return [Problem(message, f"schedule.{kept}", place_of(section, kept), f"~schedule.{removed} removes the other")]
