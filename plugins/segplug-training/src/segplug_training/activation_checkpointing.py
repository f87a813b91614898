"""Activation checkpointing applied to a model from outside: chosen modules store only their input in training.

checkpoint_activations(model, ["backbone.stages.*", "neck"])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn

from segkernel.errors import UsageError, suggest
from segkernel.nn import checkpoint_block


def checkpoint_activations(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Recompute modules in the backward pass instead of storing their activations; return their names.

    Args:
        model: Any module, such as a segmentor. Its state dict is unchanged.
        patterns: Names of modules, with ``*`` as wildcard; a `ModuleList` means its elements.

    Raises:
        UsageError: When a pattern matches no module.
    """
    chosen = modules_called(model, patterns)
    for module in chosen.values():
        if hasattr(module, "with_cp"):
            setattr(module, "with_cp", True)  # noqa: B010 (to type checkers a module's attributes are tensors)
        elif not isinstance(module.forward, _Checkpointed):
            module.forward = _Checkpointed(module)
    return list(chosen)


def modules_called(model: nn.Module, patterns: Sequence[str] | bool) -> dict[str, nn.Module]:
    """Return modules by name; ``patterns`` is that of `checkpoint_activations`, or true for blocks with ``with_cp``."""
    if isinstance(patterns, bool):
        return {name: module for name, module in model.named_modules() if patterns and hasattr(module, "with_cp")}
    return dict(pair for pattern in patterns for pair in _matching(model, pattern))


class _Checkpointed:
    """The ``forward`` of a module that is recomputed in the backward pass."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.forward = module, module.forward

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return checkpoint_block(self.module, *inputs, forward=partial(self.forward, **options))


def _matching(model: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost modules that match; a container without a forward is replaced by its children."""
    names = dict(model.named_modules())
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(f"engine: the model has no module {pattern!r}; {suggest(pattern, filter(None, names))}")
    taken: list[str] = []
    for name in found:
        if not any(name.startswith(f"{outer}.") for outer in taken):
            taken.append(name)
            holds = isinstance(names[name], nn.ModuleList | nn.ModuleDict)
            inside = ((f"{name}.{key}", child) for key, child in names[name].named_children())
            yield from inside if holds else [(name, names[name])]
