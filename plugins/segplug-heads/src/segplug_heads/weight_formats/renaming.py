"""What the formats of whole models share: renaming, and the backbone's own format."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from segkernel.weights import convert

Weights = dict[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def rename(weights: Weights, rules: Collection[Rule]) -> Weights:
    """Return the weights with every rule, a pattern and its replacement, applied to every name in order."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in compiled:
            key = pattern.sub(replacement, key)
        renamed[key] = value
    return renamed


def join_in_proj(weights: Weights) -> Weights:
    """Return the weights with ``q_proj``, ``k_proj`` and ``v_proj`` as the ``in_proj`` of torch's attention."""
    joined = {}
    for key, value in weights.items():
        if ".q_proj." in key:
            value = torch.cat([weights[key.replace(".q_proj.", f".{name}_proj.")] for name in "qkv"])
            key = key.replace(".q_proj.", ".in_proj_")
        if ".k_proj." not in key and ".v_proj." not in key:
            joined[key] = value
    return joined


def split(weights: Weights, prefix: str) -> tuple[Weights, Weights]:
    """Return the weights below a prefix, without it, and all others."""
    inner = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return inner, {key: value for key, value in weights.items() if not key.startswith(prefix)}


def backbone_weights(module: Any, weights: Weights) -> Weights:
    """Return the weights of ``module.backbone`` by our names, whatever format of it they have."""
    found = convert(module.backbone, weights, values=False).weights
    return {f"backbone.{key}": value for key, value in found.items()}
