"""Tables and memory sizes as text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from segkernel.errors import UsageError


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns, the first to the left and all others to the right."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts)]
    pads = [str.ljust, *[str.rjust] * (len(header) - 1)]
    lines = ("  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)


def size_text(size: float) -> str:
    """Return a number of bytes in a readable unit: ``1.5 GiB``."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while size >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} {units[0]}" if power == 0 else f"{size:.1f} {units[power]}"


def read_size(text: str) -> int:
    """Return the bytes of a size such as ``24GiB``, ``800M`` or ``1.5 G``; units are powers of 1024.

    Raises:
        UsageError: When it is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"{text!r} is not a size, such as 24GiB or 800M")
    return int(float(match[1]) * 1024 ** "_KMGT".index(match[2].upper() or "_"))
