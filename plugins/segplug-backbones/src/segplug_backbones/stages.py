"""What backbones of several stages share: their checks, the rates of their layers, how they begin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from segkernel.errors import ConfigError, Problem
from segkernel.nn import normal_init, trunc_normal_init


def check_indices(out_indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return ``out_indices``, each of which must be one of ``count`` maps.

    Raises:
        ConfigError: There are none, or one is out of range.
    """
    if not out_indices or not all(0 <= i < count for i in out_indices):
        raise ConfigError(Problem(f"{list(out_indices)} must name maps 0 to {count - 1}", "out_indices"))
    return tuple(out_indices)


def check_per_stage(count: int, per_stage: Mapping[str, Sequence[Any]]) -> None:
    """Refuse arguments, by name, that do not have one value for each of ``count`` stages.

    Raises:
        ConfigError: One has more or fewer.
    """
    for name, values in per_stage.items():
        if len(values) != count:
            raise ConfigError(Problem(f"{list(values)} needs {count} numbers, one for each stage", name))


def growing(rate: float, count: int) -> list[float]:
    """Return ``count`` numbers from 0 to ``rate``: how often each layer of a network is skipped."""
    return [rate * i / max(count - 1, 1) for i in range(count)]


def mixed_init(module: nn.Module) -> None:
    """Start a linear layer from a truncated normal of 0.02, a convolution by its fan-out: for ``module.apply``."""
    if isinstance(module, nn.Linear):
        trunc_normal_init(module, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        normal_init(module, std=math.sqrt(2.0 / fan_out))
