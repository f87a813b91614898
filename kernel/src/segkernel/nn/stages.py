"""Common code of backbones with several stages: frozen stages, and checks of arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone


class FreezableBackbone(Backbone):
    """A backbone whose first stages can be frozen, and whose batch norms can be kept in evaluation mode.

    A subclass implements `frozen_modules` for its ``frozen_stages`` and calls `freeze_stages` at the end of its
    constructor.
    """

    norm_eval: bool = False
    """Keep batch norm in evaluation mode while training, as small batches have poor statistics."""

    def frozen_modules(self) -> Sequence[nn.Module]:
        """Return the modules that are not trained and do not update statistics; none by default."""
        return ()

    def freeze_stages(self) -> None:
        """Turn off the gradients of the frozen modules."""
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen modules, and with ``norm_eval`` all batch norms, stay in evaluation mode."""
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def check_frozen_stages(frozen_stages: int, first: int, last: int) -> int:
    """Return ``frozen_stages`` if it is in ``first`` (nothing is frozen) to ``last`` (everything is).

    Raises:
        ConfigError: It is out of range.
    """
    if not first <= frozen_stages <= last:
        raise ConfigError(Problem(f"{frozen_stages} is not {first} (nothing) to {last}", "frozen_stages"))
    return frozen_stages


def check_out_indices(out_indices: int | Sequence[int], count: int, from_end: bool = False) -> tuple[int, ...]:
    """Return ``out_indices`` as indices of ``count`` feature maps, in the given order.

    Args:
        out_indices: One index or several.
        count: Feature maps that can be returned.
        from_end: Accept negative indices, counted from the last map.

    Raises:
        ConfigError: There is no index, or one is out of range.
    """
    given = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    lowest = -count if from_end else 0
    if not given or not all(lowest <= i < count for i in given):
        raise ConfigError(Problem(f"{given} must name maps 0 to {count - 1}", "out_indices"))
    return tuple(i % count for i in given)


def check_per_stage(count: int, per_stage: Mapping[str, Sequence[Any]]) -> None:
    """Check that arguments have one value for each of ``count`` stages.

    Args:
        count: Number of stages.
        per_stage: The arguments by name.

    Raises:
        ConfigError: One has more or fewer values.
    """
    for name, values in per_stage.items():
        if len(values) != count:
            raise ConfigError(Problem(f"{list(values)} needs {count} numbers, one for each stage", name))
