"""Which package offers a component that is not installed: the hint table of the first-party plugins.

The table, ``known.json``, is written by ``tools/update_known.py`` from ``plugins/*/pyproject.toml``.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path


@functools.cache
def table() -> dict[str, dict[str, list[str]]]:
    """Return {distribution: {group: names}}; read when an error needs it, never at start-up."""
    return dict(json.loads(Path(__file__).with_name("known.json").read_text("utf-8")))


def distribution_of(group: str, name: str) -> str | None:
    """Return the first-party distribution that offers ``name``, or None."""
    return next((dist for dist, groups in table().items() if name in groups.get(group, ())), None)


def provider_of(group: str) -> str | None:
    """Return the first-party distribution that offers most of a group, or None."""
    offers = {dist: len(groups[group]) for dist, groups in table().items() if group in groups}
    return max(offers, key=lambda dist: offers[dist], default=None)
