"""Formats that differ from ours by names: a model, a key that only they have, and renaming rules."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.interfaces.model import WeightFormat

Weights = dict[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_PREFIX = re.compile(r"^(module\.|model\.|backbone\.|encoder\.)+")


def without_prefix(weights: Weights) -> Weights:
    """Return the weights without the prefixes of wrappers (``module.``, ``backbone.``, ...)."""
    return {_PREFIX.sub("", key): value for key, value in weights.items()}


def rename(weights: Weights, rules: Collection[Rule]) -> Weights:
    """Return the weights with every rule, a pattern and its replacement, applied to every name in order."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed = {}
    for key, value in weights.items():
        for pattern, replacement in compiled:
            key = pattern.sub(replacement, key)
        renamed[key] = value
    return renamed


def join_qkv(weights: Weights, joined: str = "qkv") -> Weights:
    """Return the weights with the projections ``.q.``, ``.k.`` and ``.v.`` of one attention joined in this order."""
    result = {}
    for key, value in weights.items():
        if ".q." in key:
            value = torch.cat([weights[key.replace(".q.", f".{name}.")] for name in "qkv"])
            key = key.replace(".q.", f".{joined}.")
        if ".k." not in key and ".v." not in key:
            result[key] = value
    return result


class Renaming(WeightFormat, ABC):
    """A format whose weights have other names; subclasses reshape the few that differ in shape, too."""

    mark: ClassVar[str]
    """A pattern that matches a key of this format, but none of ours."""
    rules: ClassVar[tuple[Rule, ...]] = ()
    """Patterns and replacements, in order."""

    @abstractmethod
    def fits(self, module: nn.Module) -> bool:
        """Whether ``module`` is a model of this kind."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return self.fits(module) and any(re.search(self.mark, _PREFIX.sub("", key)) for key in keys)

    def convert(self, module: nn.Module, weights: Weights) -> Weights:
        return rename(without_prefix(weights), self.rules)
