"""Parameter groups: which parameters learn how fast and decay how much (MMSegmentation's ``paramwise_cfg``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from segkernel.config.sections import LayerDecay, Paramwise
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, paramwise: Paramwise | None = None
) -> list[dict[str, Any]]:
    """Return groups for an optimiser: trainable parameters with the same rate and decay together.

    Args:
        model: Its ``requires_grad`` parameters are taken, each once.
        lr: The rate before factors.
        weight_decay: The decay before factors.
        paramwise: The factors; without any, one group.

    Raises:
        ConfigError: When layers are to learn differently and the backbone cannot tell them apart.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    layer_decay = (paramwise or {}).get("layer_decay")
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr_mult, decay_mult = _factors(name, parameter, model.get_submodule(name.rpartition(".")[0]), paramwise or {})
        if layer_decay:
            lr_mult *= _layer_factor(name, model, layer_decay)
            decay_mult *= parameter.ndim > 1
        key = (lr * lr_mult, weight_decay * decay_mult)
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1]})
        group["params"].append(parameter)
    return list(groups.values())


def _factors(name: str, parameter: nn.Parameter, module: nn.Module, rules: Mapping[str, Any]) -> tuple[float, float]:
    custom = rules.get("custom_keys", {})
    for key in sorted(sorted(custom), key=len, reverse=True):
        if key in name:
            return custom[key].get("lr_mult", 1.0), custom[key].get("decay_mult", 1.0)
    is_bias = name.rpartition(".")[2] == "bias"
    depthwise = isinstance(module, nn.Conv2d) and module.in_channels == module.groups > 1
    kinds = {"norm": isinstance(module, NORMS), "dwconv": depthwise, "bias": is_bias, "flat": parameter.ndim == 1}
    kind = next((kind for kind, applies in kinds.items() if applies), "other")
    lr_mult = rules.get("bias_lr_mult", 1.0) if is_bias and kind != "norm" else 1.0
    return lr_mult, rules.get(f"{kind}_decay_mult", 1.0)


def _layer_factor(name: str, model: nn.Module, decay: LayerDecay) -> float:
    for prefix, module in model.named_modules():
        if isinstance(module, Backbone) and name.startswith(f"{prefix}."):
            count = decay["num_layers"]
            layer = module.layer_of(name.removeprefix(f"{prefix}."), count, decay.get("stage_wise", False))
            if layer is not None and layer > count:
                message = f"{type(module).__name__} has more than {count} layers: {name} is of {layer}"
                raise ConfigError(Problem(message, "optim.paramwise.layer_decay.num_layers"))
            return 1.0 if layer is None else decay["rate"] ** (count + 1 - layer)
    return 1.0
