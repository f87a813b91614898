"""Limits that keep a config file from filling the memory or running without end while it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkernel.errors import ConfigError, Problem
from segplug_heads.former_names import GUIDE

MOST_BYTES = 300_000
"""Size of a config file."""

MOST_FILES = 50
"""Files of a config with all its bases."""

MOST_CHARACTERS = 50_000
"""Length of a string."""

MOST_BITS = 1024
"""Size of an integer."""

DEEPEST = 60
"""Levels of nesting of expressions, statements and values."""


class Refusal(Exception):
    """An expression that is not evaluated, without its place."""


class Budget:
    """Counts the work and the memory of reading one config with its bases.

    Args:
        steps: Number of operations and values.
    """

    def __init__(self, steps: int = 300_000) -> None:
        self.steps = steps

    def charge(self, amount: int) -> None:
        """Take steps.

        Raises:
            Refusal: None are left.
        """
        self.steps -= amount
        if self.steps < 0:
            raise Refusal("is too large to be a config: it has too many values, or its loops are too long")

    def weigh(self, value: Any, depth: int = 0) -> None:
        """Charge for every value inside a value; one that is used twice counts twice."""
        self.charge(1 + (len(value) // 50 if isinstance(value, str) else 0))
        if depth > DEEPEST:
            raise Refusal("is nested too deeply")
        if isinstance(value, Mapping):
            self.weigh(list(value), depth + 1)
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for item in value:
                self.weigh(item, depth + 1)

    def checked(self, value: Any) -> Any:
        """Return the result of an operation after charging for its size.

        Raises:
            Refusal: It is too large.
        """
        if isinstance(value, str):
            if len(value) > MOST_CHARACTERS:
                raise Refusal(f"makes a string of more than {MOST_CHARACTERS:,} characters")
            self.charge(len(value) // 50)
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise Refusal(f"makes an integer of more than {MOST_BITS} bits")
        elif isinstance(value, (list, tuple, dict)):
            self.charge(len(value))
        return value


def refused(message: str, place: Any, hint: str = "") -> ConfigError:
    """Return the error for a file, or a place in it, that is not read, with the page that says what is."""
    return ConfigError(Problem(message, place=str(place), hint=f"{hint} (docs: {GUIDE})".lstrip()))
