"""Sections of troubleshooting.md: each is about one message, which names its section.

    help_for("Error: the loss is nan at iteration 120")     # "help: seg-kernel explain the-loss-is-at-iteration"

A heading in lower case is a message, … stands for what differs. The name of a section is its anchor on the site.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).with_name("troubleshooting.md")


@cache
def sections() -> dict[str, tuple[str, str]]:
    """Return heading and text of every section by its name."""
    _, *parts = re.split(r"^## (.+)\n", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    return {_anchor(heading): (heading, text.strip()) for heading, text in zip(parts[::2], parts[1::2])}


def help_for(name: str) -> str:
    """Return the line that names the section of ``Error: MESSAGE``, "" for a message without one and other names."""
    if not name.startswith("Error: "):
        return ""
    found = (anchor for anchor, (heading, _) in sections().items() if _is_about(heading, name))
    return next((f"help: seg-kernel explain {anchor}" for anchor in found), "")


def _is_about(heading: str, message: str) -> bool:
    pattern = ".*".join(map(re.escape, heading.split("…")))
    return not heading[0].isupper() and re.search(pattern, message) is not None


def _anchor(heading: str) -> str:
    """Return the anchor that MkDocs gives to a heading."""
    words = re.sub(r"[^\w\s-]", "", heading, flags=re.ASCII).strip().lower()
    return re.sub(r"[-\s]+", "-", words)
