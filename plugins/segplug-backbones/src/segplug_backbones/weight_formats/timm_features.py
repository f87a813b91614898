"""timm's models that return feature maps: the names of their first level are flat, ``stages_0.`` for ``stages.0.``."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_backbones.weight_formats.renaming import Weights, without_prefix


class TimmFeatures(WeightFormat):
    """The names of a model built with ``features_only=True``, for backbones that have the names of the plain model."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        own = module.state_dict().keys()
        return any(key not in own and _nested(key, own) in own for key in keys)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        own = module.state_dict().keys()
        return {_nested(key, own): value for key, value in without_prefix(weights).items()}


def _nested(key: str, own: Collection[str]) -> str:
    """Return the name of the plain model, ``stem.conv1.weight`` for ``stem_conv1.weight``; else the key."""
    first, dot, rest = key.partition(".")
    parts = first.split("_")
    for i in range(1, len(parts)):
        name = "_".join(parts[:i]) + "." + "_".join(parts[i:]) + dot + rest
        if name in own:
            return name
    return key
