"""Reading the values of a foreign config, with one clear message for those that have no counterpart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segkernel.errors import ConfigError, Problem

ACTIVATIONS = {
    "gelu": {"type": "GELU"},
    "relu": {"type": "ReLU"},
    "relu6": {"type": "ReLU6"},
    "silu": {"type": "SiLU"},
    "swish": {"type": "SiLU"},
}
"""Layer specs by ``hidden_act``."""


def unsupported(key: str, value: Any, hint: str = "") -> ConfigError:
    """Return the error for a value that no model here has."""
    return ConfigError(Problem(f"{value!r:.60} is not supported", key, hint=hint))


def only(config: Mapping[str, Any], **values: Any) -> None:
    """Check keys that models here have one value of; missing ones count as that.

    Raises:
        ConfigError: One has another value.
    """
    for key, value in values.items():
        if config.get(key, value) != value:
            raise unsupported(key, config[key], f"only {value!r} is")


def activation(config: Mapping[str, Any], key: str = "hidden_act") -> dict[str, Any]:
    """Return the layer spec of an activation.

    Raises:
        ConfigError: It is none of those known.
    """
    if (name := config[key]) not in ACTIVATIONS:
        raise unsupported(key, name, f"supported: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def same(config: Mapping[str, Any], key: str) -> Any:
    """Return the one value of a list whose entries are equal.

    Raises:
        ConfigError: They differ.
    """
    values: Sequence[Any] = config[key]
    if any(value != values[0] for value in values):
        raise unsupported(key, values, "all entries must be equal")
    return values[0]


def divisible(value: float, divisor: int) -> int:
    """Return a number of channels as a multiple of ``divisor``, and not more than a tenth below ``value``."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
