"""Adapters: a few trained parameters in a frozen transformer, by one line of a config.

    backbone: {type: DINOv2, arch: small, pretrained: dinov2_small.safetensors, adapt: {type: LoRA, rank: 8}}

    LoRA(rank=8)(backbone)      # of any module, in place

The names of the backbone's own parameters do not change: published weights load before and after adapting.
"""

from __future__ import annotations

import logging
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import NonNegative, Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import DotProductAttention

log = logging.getLogger(__name__)

ATTENTION = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(\w+\.)*(qkv|[qkv]|kv|[qkv]_proj|query|key|value|proj|out_proj)$"
)
"""Names of the linear layers of attention."""
MLP = re.compile(r"(^|\.)(mlp|ffn)$")
"""Names of feed-forward networks."""


class Adapter(ABC):
    """Freezes a backbone and adds parameters to it that train; called with the backbone, which it changes in place."""

    component_group = "parts"

    def __call__(self, backbone: nn.Module) -> None:
        """Adapt ``backbone``.

        Raises:
            ConfigError: The backbone has no layer to adapt.
        """
        total = sum(parameter.numel() for parameter in backbone.parameters())
        backbone.requires_grad_(False)
        count = self.add_to(backbone)
        kind = type(self).__name__
        if not count:
            message = f"{kind} finds no {self.wanted} in {type(backbone).__name__}"
            raise ConfigError(Problem(message, "adapt", hint="it adapts transformers"))
        trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
        log.info("%s in %d layers: %s parameters of the backbone train, %s are frozen",
                 kind, count, f"{trained:,}", f"{total:,}")  # fmt: skip

    wanted: str = "layers"
    """What is adapted, for messages."""

    @abstractmethod
    def add_to(self, backbone: nn.Module) -> int:
        """Add the parameters; return the number of layers that were changed."""


class LoRA(Adapter):
    """Adds a trained matrix of low rank to the weight W of linear layers: W + alpha / rank * B A, with B = 0 at first.

    It costs nothing at inference: exports and `segplug_deploy.optimize_for_inference` add it to the weight.
    LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2022 (https://arxiv.org/abs/2106.09685).

    Args:
        rank: Rank of the update, 4 to 64.
        alpha: Factor of the update, divided by ``rank``; None is ``rank``.
        dropout: Dropout rate of the update's input.
        mlp: Adapt the linear layers of feed-forward networks as well as those of attention.
    """

    wanted = "linear layers of attention"

    def __init__(
        self, rank: PositiveInt = 8, alpha: Positive | None = None, dropout: Probability = 0.0, mlp: bool = False
    ) -> None:
        self.rank, self.scale, self.dropout, self.mlp = rank, (rank if alpha is None else alpha) / rank, dropout, mlp

    def add_to(self, backbone: nn.Module) -> int:
        count = 0
        for layer in [*self._layers(backbone)]:
            layer.__class__ = LoRALinear if type(layer) is nn.Linear else LoRAAttention
            layer.add_update(self.rank, self.scale, self.dropout)
            count += 1
        return count

    def _layers(self, backbone: nn.Module) -> Iterator[Any]:
        for name, module in backbone.named_modules():
            if type(module) is DotProductAttention or (type(module) is nn.Linear and ATTENTION.search(name)):
                yield module
            elif self.mlp and MLP.search(name):
                yield from (layer for layer in module.modules() if type(layer) is nn.Linear)


class _LowRankUpdate(nn.Module):
    """A layer whose weight has an update of low rank.

    It becomes the class of a built layer, whose parameters keep their names.
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def add_update(self, rank: int, scale: float, dropout: float) -> None:
        """Add the parameters to the layer, with no effect at first."""
        weight = self.frozen_weight()
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_scale, self.lora_dropout = scale, dropout

    updated = "weight"
    """The name of the weight."""

    def frozen_weight(self) -> Tensor:
        """Return the weight without its update."""
        weight = self._parameters[self.updated]
        assert weight is not None
        return weight

    def merged_weight(self) -> Tensor:
        """Return the weight with its update."""
        return self.frozen_weight() + self.lora_scale * (self.lora_B @ self.lora_A)


class LoRALinear(_LowRankUpdate, nn.Linear):
    """`LoRA` of a linear layer."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight with its update, for modules that apply the weight of a layer themselves."""
        return self.merged_weight()

    def forward(self, x: Tensor) -> Tensor:
        # Not by the sum of the weights, whose gradient is as large as the weight.
        hidden = F.linear(F.dropout(x, self.lora_dropout, self.training), self.lora_A)
        return F.linear(x, self.frozen_weight(), self.bias) + self.lora_scale * F.linear(hidden, self.lora_B)

    def fused(self) -> nn.Linear:
        """Return the plain layer with the update in its weight."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.merged_weight().detach(), requires_grad=False)
        plain.bias = self.bias
        return plain


class LoRAAttention(_LowRankUpdate, DotProductAttention):
    """`LoRA` of the joint projection of queries, keys and values of `segkernel.nn.DotProductAttention`."""

    updated = "in_proj_weight"

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The weight with its update."""
        return self.merged_weight()

    def fused(self) -> DotProductAttention:
        """Return the plain layer with the updates in its weights."""
        width, biased = self.lora_A.shape[1], self.in_proj_bias is not None
        with torch.device("meta"):
            plain = DotProductAttention(width, self.num_heads, self.dropout, biased)
        plain.in_proj_weight = nn.Parameter(self.merged_weight().detach(), requires_grad=False)
        plain.in_proj_bias = self.in_proj_bias
        plain.out_proj = self.out_proj.fused() if isinstance(self.out_proj, LoRALinear) else self.out_proj
        return plain


class AdaptFormer(Adapter):
    """Adds a narrow network beside every feed-forward network: y + scale * up(ReLU(down(x))), with up = 0 at first.

    AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition, Chen et al., 2022
    (https://arxiv.org/abs/2205.13535).

    Args:
        channels: Hidden width of the added networks.
        scale: Factor of their output.
        dropout: Dropout rate of their hidden layer.
    """

    wanted = "feed-forward networks of linear layers"

    def __init__(self, channels: PositiveInt = 64, scale: NonNegative = 0.1, dropout: Probability = 0.0) -> None:
        self.channels, self.scale, self.dropout = channels, scale, dropout

    def add_to(self, backbone: nn.Module) -> int:
        count = 0
        for name, module in [*backbone.named_modules()]:
            first = next((layer for layer in module.modules() if isinstance(layer, nn.Linear)), None)
            if first is not None and MLP.search(name):
                module.adapter = Bottleneck(first.in_features, self.channels, self.scale, self.dropout).to(first.weight)
                module.register_forward_hook(_add_adapter)
                count += 1
        return count


class Bottleneck(nn.Module):
    """Two linear layers with a ReLU between them, (..., C) -> the same shape; zeros at first."""

    def __init__(self, embed_dims: int, channels: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(embed_dims, channels), nn.Linear(channels, embed_dims)
        self.scale, self.dropout = scale, dropout
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.dropout(F.relu(self.down(x)), self.dropout, self.training)
        return self.scale * self.up(hidden)


def _add_adapter(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + module.get_submodule("adapter")(arguments[0])
