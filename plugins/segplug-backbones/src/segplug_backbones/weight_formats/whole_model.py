"""Whole models whose backbone has the names of another format."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat
from segkernel.weights import convert

PREFIX = "backbone."


class WholeModelBackbone(WeightFormat):
    """Names of the model everywhere but in the backbone, as in models around timm's or early MMSegmentation's ViT."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return hasattr(module, "backbone") and any(key.startswith(PREFIX) for key in keys)

    def convert(self, module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        inner = {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}
        found = convert(module.backbone, inner, values=False)  # type: ignore[arg-type]
        rest = OrderedDict((key, value) for key, value in weights.items() if not key.startswith(PREFIX))
        return OrderedDict((PREFIX + key, value) for key, value in found.weights.items()) | rest
