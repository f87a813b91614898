"""Parsers of long lists of classes and colours."""

from __future__ import annotations

from segkernel.labels import Color


def names(text: str) -> tuple[str, ...]:
    """Parse names separated by commas; line breaks are spaces."""
    return tuple(" ".join(name.split()) for name in text.split(","))


def colors(text: str) -> tuple[Color, ...]:
    """Parse hexadecimal colours ``rrggbb``, separated by spaces."""
    return tuple((int(rgb[:2], 16), int(rgb[2:4], 16), int(rgb[4:], 16)) for rgb in text.split())
