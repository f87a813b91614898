"""`Paramwise`: learning rate and weight decay of each parameter (MMSegmentation's ``paramwise_cfg``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from typing_extensions import Required, TypedDict

from segkernel.annotations import NonNegative, Positive, PositiveInt
from segkernel.errors import ConfigError, Problem, suggest
from segkernel.interfaces.model import Backbone

log = logging.getLogger(__name__)

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


class KeyRule(TypedDict, total=False):
    """Factors for the parameters whose name contains a key."""

    lr_mult: NonNegative
    decay_mult: NonNegative


class LayerDecay(TypedDict, total=False):
    """Layer-wise learning-rate decay: early backbone layers get a lower rate.

    A parameter of layer i of ``num_layers`` has its rate multiplied by ``rate ** (num_layers + 1 - i)``;
    `Backbone.layer_of` returns the layer, or the stage for ``stage_wise``. Biases and other one-dimensional parameters
    have no weight decay unless ``decay_flat`` is true.
    """

    rate: Required[Positive]
    num_layers: Required[PositiveInt]
    stage_wise: bool
    decay_flat: bool


class Paramwise:
    """Builds an optimiser's parameter groups: one per combination of rate and decay, of trainable parameters.

    Args:
        custom_keys: Factors by a part of a parameter's name; the longest match wins and replaces the other
            ``*_mult`` factors.
        bias_lr_mult: Factor on the rate of biases outside norms.
        bias_decay_mult: Factor on the decay of biases outside norms.
        norm_decay_mult: Factor on the decay of norm layers.
        dwconv_decay_mult: Factor on the decay of depth-wise convolutions.
        flat_decay_mult: Factor on the decay of other one-dimensional parameters.
        layer_decay: Layer-wise decay of the rate, multiplied with the other factors.
    """

    def __init__(
        self,
        custom_keys: Mapping[str, KeyRule] | None = None,
        bias_lr_mult: NonNegative = 1.0,
        bias_decay_mult: NonNegative = 1.0,
        norm_decay_mult: NonNegative = 1.0,
        dwconv_decay_mult: NonNegative = 1.0,
        flat_decay_mult: NonNegative = 1.0,
        layer_decay: LayerDecay | None = None,
    ) -> None:
        self.custom_keys, self.bias_lr_mult, self.layer_decay = dict(custom_keys or {}), bias_lr_mult, layer_decay
        self.decay_mult = {
            "norm": norm_decay_mult,
            "dwconv": dwconv_decay_mult,
            "bias": bias_decay_mult,
            "flat": flat_decay_mult,
        }

    def __call__(self, model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Return groups with ``params``, ``lr`` and ``weight_decay``, from the base rate and decay.

        With ``layer_decay`` they also tell by ``backbone`` whether they are of a backbone (`TwoStageWarmupPolyLR`).

        Raises:
            ConfigError: When ``layer_decay`` is given and the backbone does not number its layers; when
                ``custom_keys`` has rates and none of its keys occurs in a parameter's name.
        """
        self._check_unmatched([name for name, _ in model.named_parameters()])
        groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
        backbones = [f"{name}." for name, module in model.named_modules() if isinstance(module, Backbone)]
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            lr_mult, decay_mult = self._factors(name, parameter, model.get_submodule(name.rpartition(".")[0]))
            if self.layer_decay:
                lr_mult *= _layer_factor(name, model, self.layer_decay)
                decay_mult *= parameter.ndim > 1 or self.layer_decay.get("decay_flat", False)
            of_backbone = self.layer_decay is not None and name.startswith(tuple(backbones))
            key = (lr * lr_mult, weight_decay * decay_mult, of_backbone)
            group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
            if self.layer_decay:
                group["backbone"] = of_backbone
            group["params"].append(parameter)
        return list(groups.values())

    def _check_unmatched(self, names: Sequence[str]) -> None:
        """Warn of rates whose key matches no parameter, as in some published configs; raise if no key matches any."""
        rated = [key for key, rule in self.custom_keys.items() if rule.get("lr_mult", 1.0) != 1.0]
        found = {key for key in self.custom_keys if any(key in name for name in names)}
        unmatched = [key for key in rated if key not in found]
        parts = dict.fromkeys(part for name in names for part in name.split("."))
        if unmatched and not found:
            message, path = f"{unmatched[0]} matches no parameter name", "optim.paramwise.custom_keys"
            raise ConfigError(Problem(message, path, hint=suggest(unmatched[0], parts)))
        for key in unmatched:
            log.warning("optim.paramwise.custom_keys: %s matches no parameter name; %s", key, suggest(key, parts))

    def _factors(self, name: str, parameter: nn.Parameter, module: nn.Module) -> tuple[float, float]:
        for key in sorted(sorted(self.custom_keys), key=len, reverse=True):
            if key in name:
                rule = self.custom_keys[key]
                return rule.get("lr_mult", 1.0), rule.get("decay_mult", 1.0)
        is_bias = name.rpartition(".")[2] == "bias"
        depthwise = isinstance(module, nn.Conv2d) and module.in_channels == module.groups > 1
        kinds = {"norm": isinstance(module, NORMS), "dwconv": depthwise, "bias": is_bias, "flat": parameter.ndim == 1}
        kind = next((kind for kind, applies in kinds.items() if applies), "other")
        lr_mult = self.bias_lr_mult if is_bias and kind != "norm" else 1.0
        return lr_mult, self.decay_mult.get(kind, 1.0)


def _layer_factor(name: str, model: nn.Module, decay: LayerDecay) -> float:
    for prefix, module in model.named_modules():
        if isinstance(module, Backbone) and name.startswith(f"{prefix}."):
            count = decay["num_layers"]
            layer = module.layer_of(name.removeprefix(f"{prefix}."), count, decay.get("stage_wise", False))
            if layer is not None and layer > count:
                message = f"{type(module).__name__} has more than {count} layers: {name} is in layer {layer}"
                raise ConfigError(Problem(message, "optim.paramwise.layer_decay.num_layers"))
            return 1.0 if layer is None else decay["rate"] ** (count + 1 - layer)
    return 1.0
