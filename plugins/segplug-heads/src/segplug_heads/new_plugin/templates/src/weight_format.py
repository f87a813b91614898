"""Weights of other projects: their key names, and ours."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat

PREFIX = "my_model_encoder."


def example() -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a module, and weights for it in this format, for the conformance kit."""
    module = nn.Conv2d(3, 4, 1)
    return module, {f"{PREFIX}{name}": value for name, value in module.state_dict().items()}


class MyModelWeights(WeightFormat):
    """Weights whose names start with ``my_model_encoder.``."""

    conformance_inputs: ClassVar = {"make": example}

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        """Whether these names are of this format."""
        return bool(keys) and all(key.startswith(PREFIX) for key in keys)

    def convert(self, module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with the names of ``module``."""
        return {name.removeprefix(PREFIX): value for name, value in weights.items()}
