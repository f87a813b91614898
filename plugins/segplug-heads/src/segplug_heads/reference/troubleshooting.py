"""Sections of troubleshooting.md: each is about one message, which names its section.

    help_for("Error: the loss is nan at iteration 120")
    # "help: seg-kernel explain the-loss-is-at-iteration (docs: troubleshooting/the-loss-is-at-iteration/)"

A heading in lower case is a message, … stands for what differs. The documentation site has a page for each section, at
`page_address`.
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
    return {_slug(heading): (heading, text.strip()) for heading, text in zip(parts[::2], parts[1::2])}


def introduction() -> str:
    """Return the text before the first section, with its heading."""
    return PAGE.read_text("utf-8").partition("\n## ")[0]


def page_address(name: str) -> str:
    """Return the address of a section's page, relative to that of the documentation site."""
    return f"troubleshooting/{name}/"


def help_for(name: str) -> str:
    """Return the line that names the section of ``Error: MESSAGE``, "" for a message without one and other names."""
    if not name.startswith("Error: "):
        return ""
    found = (section for section, (heading, _) in sections().items() if _is_about(heading, name))
    return next((f"help: seg-kernel explain {section} (docs: {page_address(section)})" for section in found), "")


def _is_about(heading: str, message: str) -> bool:
    pattern = ".*".join(map(re.escape, heading.split("…")))
    return not heading[0].isupper() and re.search(pattern, message) is not None


def _slug(heading: str) -> str:
    words = re.sub(r"[^\w\s-]", "", heading, flags=re.ASCII).strip().lower()
    return re.sub(r"[-\s]+", "-", words)
