"""Backbones of which a part stands still while the rest trains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone


class PartlyFrozen(Backbone):
    """A backbone with frozen stages; its constructor sets ``norm_eval`` and ends with `_freeze`."""

    norm_eval: bool = False
    """Keep batch norm in evaluation mode while training."""

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages, and with ``norm_eval`` every batch norm, stay in evaluation mode."""
        super().train(mode)
        still = list(self._frozen())
        if self.norm_eval:
            still += [module for module in self.modules() if isinstance(module, _BatchNorm)]
        for module in still:
            module.eval()
        return self

    def _frozen(self) -> Sequence[nn.Module]:
        """Return the modules that neither train nor count statistics."""
        raise NotImplementedError

    def _freeze(self) -> None:
        for module in self._frozen():
            module.requires_grad_(False)


def check_frozen(frozen_stages: int, first: int, last: int) -> int:
    """Return ``frozen_stages``, from ``first``, which freezes nothing, to ``last``, which freezes everything.

    Raises:
        ConfigError: It is out of range.
    """
    if not first <= frozen_stages <= last:
        raise ConfigError(Problem(f"{frozen_stages} is not {first} (nothing) to {last}", "frozen_stages"))
    return frozen_stages
