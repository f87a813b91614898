"""What a sweep varies: lists of values and ranges, all combinations of them or random ones.

lr=[1e-3,1e-4]      lr=log(1e-5,1e-2)      drop=uniform(0,0.5)      depth=int(2,6)
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkernel.config.marks import to_builtin
from segkernel.config.text import read_mapping
from segkernel.errors import Problem, UsageError

_RANGE = re.compile(r"(?P<key>[^~=]*[^~=+])=(?P<scale>uniform|log|int)\((?P<low>[^,]+),(?P<high>[^,]+)\)\s*")
_VARIED = re.compile(r"(?P<key>[^~=]*[^~=+])=(?P<values>\[.*\])\s*", re.DOTALL)


@dataclass(frozen=True)
class Range:
    """A range to draw values from: ``uniform(0,0.5)``, ``log(1e-5,1e-2)``, ``int(1,8)``.

    Args:
        scale: ``log`` draws the logarithm uniformly, ``int`` an integer.
        low: The lowest value.
        high: The highest value.

    Raises:
        UsageError: When it is empty, or its ends have no logarithm or are no integers.
    """

    scale: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high < math.inf or (self.scale == "log" and self.low <= 0):
            raise UsageError(f"{self.scale}({self.low:g},{self.high:g}): needs LOW < HIGH, and above 0 for log")
        if self.scale == "int" and not (self.low.is_integer() and self.high.is_integer()):
            raise UsageError(f"int({self.low:g},{self.high:g}): needs whole numbers")

    def draw(self, generator: random.Random) -> float:
        """Return a value, a number of four digits."""
        if self.scale == "int":
            return generator.randint(int(self.low), int(self.high))
        if self.scale == "log":
            return float(f"{math.exp(generator.uniform(math.log(self.low), math.log(self.high))):.4g}")
        return float(f"{generator.uniform(self.low, self.high):.4g}")


Values = list[Any] | Range
"""Values to vary a key over."""


def read_varied(overrides: Sequence[str]) -> tuple[list[str], dict[str, Values]]:
    """Return the overrides common to all runs, and the values by key: ``lr=[1e-3,1e-4]``, or ``lr=log(1e-5,1e-2)``.

    Raises:
        UsageError: When a list of values is empty or cannot be parsed, or a range is wrong.
    """
    fixed: list[str] = []
    varied: dict[str, Values] = {}
    for text in overrides:
        if match := _RANGE.fullmatch(text):
            varied[match["key"]] = Range(match["scale"], *(_number(match[end], text) for end in ("low", "high")))
            continue
        match = _VARIED.fullmatch(text)
        if match is None:
            fixed.append(text)
            continue
        problems: list[Problem] = []
        found = read_mapping(f"values: {match['values']}", "command line", problems)
        if problems or found is None or not found["values"]:
            raise UsageError(f"{text!r}: needs values, KEY=[A,B]; write a list as a single value KEY=[[A,B]]")
        values = to_builtin(found["values"])
        if len(values) == 1:  # common to all runs, so not part of their names and of the table
            fixed.append(f"{match['key']}={json.dumps(values[0])}")
        else:
            varied[match["key"]] = values
    return fixed, varied


def _number(text: str, override: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{override!r}: {text.strip()!r} is not a number") from None


def grid(varied: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Return every combination of values.

    Raises:
        UsageError: When a key has a range, which has no end of values.
    """
    lists: dict[str, list[Any]] = {}
    for key, values in varied.items():
        if isinstance(values, Range):
            raise UsageError(f"{key}: a range is drawn from: add --random N")
        lists[key] = values
    return [dict(zip(lists, values)) for values in itertools.product(*lists.values())]


def drawn(varied: Mapping[str, Values], count: int, seed: int) -> list[dict[str, Any]]:
    """Return ``count`` random combinations, without repetitions; a larger count begins with the same ones.

    Raises:
        UsageError: When nothing varies.
    """
    if not varied:
        raise UsageError("--random draws values: give KEY=[A,B], KEY=uniform(LOW,HIGH), log(LOW,HIGH) or int(LOW,HIGH)")
    found: dict[str, dict[str, Any]] = {}
    for number in range(count):
        chosen = {}
        for key, values in varied.items():
            generator = random.Random(f"{seed} {number} {key}")  # a key draws the same beside any others
            chosen[key] = values.draw(generator) if isinstance(values, Range) else generator.choice(values)
        found.setdefault(json.dumps(chosen), chosen)
    return list(found.values())
