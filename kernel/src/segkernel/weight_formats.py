"""The door to weights of others: where they are, how their files are read, what their tensors are called here.

path = locate("torchvision://resnet50")
converted = convert(model.backbone, checkpoint.load(path)["state_dict"])

What is known of that comes from plugins, as `WeightFormat` in the group ``segkernel.weight_formats``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from segkernel.catalog import Catalog, Row
from segkernel.errors import CheckpointError
from segkernel.interfaces.model import WeightFormat

GROUP = "weight_formats"


@dataclass(frozen=True)
class ConvertedWeights:
    """Weights under a model's own names.

    Args:
        weights: By name; names that the model does not have may be among them.
        format: Which format they had; empty when the names were the model's.
    """

    weights: OrderedDict[str, Tensor]
    format: str = ""


def locate(source: str | Path) -> Path:
    """Return the file that ``source`` stands for: a path, or a name or an address that some format locates.

    Raises:
        CheckpointError: A name or an address that no installed format knows, or that cannot be had.
        ComponentError: The package for names and addresses is missing; or two formats locate this equally well.
    """
    catalog, text = Catalog.current(), str(source)
    if Path(source).exists():
        return Path(source)
    found = catalog.choose(GROUP, text, lambda each: each().locates(text))
    if found is None and "://" in text:
        raise catalog.why_none(GROUP, text) or CheckpointError(f"{text}: no weights have this name")
    return Path(source) if found is None else found().locate(text)  # whoever opens a path says that it is missing


def reader_of(suffix: str) -> WeightFormat | None:
    """Return the format that reads files of a suffix, None when no installed one does."""
    found = Catalog.current().choose(GROUP, suffix, lambda each: suffix.lower() in each.suffixes)
    return None if found is None else found()


def convert(module: nn.Module, weights: Mapping[str, Tensor], format: str | None = None) -> ConvertedWeights:
    """Bring weights under the names of ``module``, which is not changed.

    Args:
        module: What they are for. The backbone's part of a whole model will do for a backbone.
        weights: As `checkpoint.load` gives them.
        format: The format's name, where the keys alone do not tell; None takes the one that gives the module most of
            its tensors.

    Raises:
        ComponentError: There is no such format, or formats of two distributions do equally well.
    """
    catalog, own = Catalog.current(), module.state_dict().keys()
    if format is not None:
        row = catalog.find(GROUP, format)
        return _converted(module, weights, catalog.load_row(row)(), row.name)
    ours = ConvertedWeights(_of_backbone(own, weights))
    if own <= ours.weights.keys():
        return ours
    known = {row: found() for row, found in catalog.load_all(GROUP)}
    candidates = {
        row: _converted(module, weights, each, row.name)
        for row, each in known.items()
        if each.matches(module, weights.keys())
    }
    fitting = {row: len(own & each.weights.keys()) for row, each in candidates.items()}
    most = max(fitting.values(), default=0)
    if most <= len(own & ours.weights.keys()):
        return ours
    # A distribution knows all of its own formats, so the order of its names may decide between those.
    best: dict[str, Row] = {}
    for row in (row for row, count in fitting.items() if count == most):
        best.setdefault(row.distribution, row)
    return candidates[catalog.settle([*best.values()], "these weights")]  # type: ignore[index]


def _converted(module: nn.Module, weights: Mapping[str, Tensor], found: WeightFormat, name: str) -> ConvertedWeights:
    return ConvertedWeights(OrderedDict(found.convert(module, dict(weights))), name)


def _of_backbone(own: Collection[str], weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return the weights of a backbone out of those of a whole model, as long as more names fit then."""
    inner = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    if len(set(own) & inner.keys()) > len(set(own) & weights.keys()):
        return OrderedDict(inner)
    ours = OrderedDict(weights)
    ours._metadata = getattr(weights, "_metadata", OrderedDict())  # type: ignore[attr-defined]  # versions of layers
    return ours
