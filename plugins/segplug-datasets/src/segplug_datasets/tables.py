"""Parsers of long lists of classes and colours."""

from __future__ import annotations

from segkernel.labels import Color


def names(text: str) -> tuple[str, ...]:
    """Return the names between the commas of a text; a line break is a space."""
    return tuple(" ".join(name.split()) for name in text.split(","))


def colors(text: str) -> tuple[Color, ...]:
    """Return the colours of a text: ``rrggbb`` each, hexadecimal."""
    return tuple((int(rgb[:2], 16), int(rgb[2:4], 16), int(rgb[4:], 16)) for rgb in text.split())
