"""Weights of other layouts and sizes into our models: recognised by their keys, converted, resized.

What is known about layouts comes from plugins (``segkernel.layouts``); a module says itself how its own weights
change with the image size (a method ``resize_weight(name, value, shape)``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from segkernel.catalog import Catalog
from segkernel.errors import BrokenPluginError, CheckpointError, suggest
from segkernel.interfaces.model import WeightLayout

Weights = Mapping[str, Tensor]
log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Weights under a model's own names.

    Args:
        weights: By name.
        layout: Whose layout they had; empty when the names were ours.
        resized: Names, with the shape in the file and that in the model.
    """

    weights: OrderedDict[str, Tensor]
    layout: str = ""
    resized: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


def prepare(module: nn.Module, weights: Weights, *, layout: str | None = None, resize: bool = True) -> Prepared:
    """Bring weights into the layout and the sizes of ``module``, as far as that is known.

    Args:
        module: What they are for; it is not changed.
        weights: As `checkpoint.load` gives them.
        layout: Name of the layout, when its keys alone do not tell; None recognises it.
        resize: Whether values may be resampled to the module's sizes.

    Raises:
        CheckpointError: There is no such layout.
    """
    prepared = _convert(module, weights, layout)
    prepared.weights._metadata = getattr(weights, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    if resize:
        for name, value in module.state_dict().items():
            given = prepared.weights.get(name)
            if given is not None and given.shape != value.shape:
                fitted = _resize(module, name, given, value)
                if fitted is not None and fitted.shape == value.shape:
                    prepared.weights[name] = fitted
                    prepared.resized.append((name, tuple(given.shape), tuple(value.shape)))
    return prepared


def _convert(module: nn.Module, weights: Weights, layout: str | None) -> Prepared:
    """Return the weights in the layout that fits best; ours wins."""
    best = Prepared(_without_prefix(module, weights))
    if layout is None and module.state_dict().keys() <= best.weights.keys():
        return best
    candidates = []
    for name, found in _layouts(layout):
        if layout is not None or found.matches(module, weights.keys()):
            candidates.append(Prepared(OrderedDict(found.convert(module, dict(weights))), name))
    return max([best, *candidates] if layout is None else candidates, key=lambda each: _fitting(module, each.weights))


def _layouts(wanted: str | None) -> list[tuple[str, WeightLayout]]:
    """Return the installed layouts by name, or the wanted one."""
    catalog = Catalog.discover()
    rows = [row for row in catalog.rows_of("layouts") if wanted in (None, row.name)]
    if wanted is not None and not rows:
        raise CheckpointError(f"there is no layout {wanted!r}; {suggest(wanted, catalog.names('layouts'))}")
    found = []
    for row in rows:
        try:
            found.append((row.name, catalog.load_row(row)()))
        except BrokenPluginError as error:
            log.warning("%s", error)
    return found


def _without_prefix(module: nn.Module, weights: Weights) -> OrderedDict[str, Tensor]:
    """Return the weights of a backbone out of those of a whole MMSegmentation or mmpretrain model."""
    own = module.state_dict().keys()
    inner = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    return OrderedDict(inner if len(own & inner.keys()) > len(own & weights.keys()) else weights)


def _fitting(module: nn.Module, weights: Weights) -> int:
    """Count the names that a module has."""
    return len(module.state_dict().keys() & weights.keys())


def _resize(module: nn.Module, name: str, given: Tensor, own: Tensor) -> Tensor | None:
    """Return a value at the size the module has it, or None when nobody knows how."""
    owner, path = module, name.split(".")
    chain = [(module, name)]
    for index, part in enumerate(path[:-1]):
        owner = getattr(owner, part)
        chain.append((owner, ".".join(path[index + 1 :])))
    for each, rest in reversed(chain):
        method = getattr(each, "resize_weight", None)
        if method is not None and (fitted := method(rest, given, tuple(own.shape))) is not None:
            return fitted
    same_kernel = given.ndim == own.ndim == 4 and (given.shape[0], *given.shape[2:]) == (own.shape[0], *own.shape[2:])
    if same_kernel and given.shape[1] in (1, 3):  # a first convolution: only images have so few channels
        return _other_channels(given, own.shape[1])
    return None


def _other_channels(kernel: Tensor, channels: int) -> Tensor:
    """Repeat a first convolution's channels, scaled so that a sum over equal channels stays what it was."""
    copies = -(-channels // kernel.shape[1])
    return kernel.repeat(1, copies, 1, 1)[:, :channels] * (kernel.shape[1] / channels)
