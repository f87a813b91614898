"""Weights into a model, with a report of what fitted.

_, report = load_into(model, "swin_tiny.pth", "finetune")
print(report)

Weights of others are brought under the names of the model on the way, by plugins' `WeightFormat`; what has another
size is fitted when fine-tuning, by `segkernel.nn.fit_shapes`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from segkernel import checkpoint
from segkernel.catalog import Catalog, Row
from segkernel.errors import CheckpointError
from segkernel.nn import fit_shapes, match_classes

Mode = Literal["strict", "finetune"]
Reshaped = tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
"""Names, with the shape in the file and the shape in the model."""
LoadStateDict = Callable[[Mapping[str, Tensor]], Any]
"""Copies weights into a model; returns ``missing_keys`` and ``unexpected_keys`` as torch does."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's weights; printing it gives the report.

    Args:
        loaded: Names that were copied into the model.
        skipped: Names that the model does not have.
        reshaped: Names that have another shape in the model, whose own values stayed.
        fresh: Names that the file does not have; the model's own values stayed.
        format: Which weight format the file had; empty when the names were the model's.
        resized: Names whose values were resampled or repeated to the model's shape.
        matched: Names whose rows were matched by class name, with how many of how many were.
        considered: Formats of the same names and other values, which nothing in the file tells apart.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    reshaped: Reshaped
    fresh: tuple[str, ...]
    format: str = ""
    resized: Reshaped = ()
    matched: tuple[tuple[str, int, int], ...] = ()
    considered: tuple[str, ...] = ()

    def __str__(self) -> str:
        converted = f", converted from {self.format}" if self.format else ""
        total = len(self.loaded) + len(self.reshaped) + len(self.fresh)
        lines = [f"loaded {len(self.loaded)} of {total} tensors{converted}"]
        lines += [f"    resized: {name} from {old} to {new}" for name, old, new in self.resized]
        lines += [f"    {name}: {count} of {total} classes matched by name" for name, count, total in self.matched]
        lines += [f"    loaded as they are; of the format {name}? write {name}::FILE" for name in self.considered]
        return "\n".join([*lines, *self.misfits()])

    def misfits(self) -> list[str]:
        """Return lines that say what did not fit."""
        lines = [f"    {name}: {old} in the file, {new} in the model" for name, old, new in self.reshaped[:8]]
        if len(self.reshaped) > 8:
            lines.append(f"    and {len(self.reshaped) - 8} more")
        lists = {"not in the file": self.fresh, "not in the model": self.skipped}
        return [*lines, *(f"    {text}: {_some(names)}" for text, names in lists.items() if names)]


def load_into(
    model: nn.Module,
    source: str | Path | dict[str, Any],
    mode: Mode,
    *,
    classes: Sequence[str] | None = None,
    format: str | None = None,
    load: LoadStateDict | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """Copy the weights in a file into ``model``; return all that the file holds, and what was taken.

    Args:
        model: Changed in place.
        source: As for `checkpoint.load`, or what that has given.
        mode: As for `load_weights`. To fine-tune, values are resized where that is known, and the rows of the last
            convolution go to the classes of the same name.
        classes: The model's own, to match those of the file by name when fine-tuning.
        format: The weight format of the file; None recognises it.
        load: As for `load_weights`.

    Raises:
        CheckpointError: As `checkpoint.load` and `load_weights`, naming the file.
        ComponentError: As `convert`.
    """
    state = source if isinstance(source, dict) else checkpoint.load(source)
    known = state["meta"].get("classes")
    finetune = mode == "finetune"
    converted = convert(model, state["state_dict"], format, values=finetune)
    resized = fit_shapes(model, converted.weights) if finetune else ()
    matched = match_classes(model, converted.weights, known, classes) if finetune else ()
    try:
        report = load_weights(model, converted.weights, mode=mode, classes=known, load=load)
    except CheckpointError as error:
        raise CheckpointError(f"{state['path']}: {error}") from error
    report = replace(report, format=converted.format, considered=converted.considered)
    return state, replace(report, resized=tuple(resized), matched=tuple(matched))


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    mode: Mode,
    classes: Sequence[str] | None = None,
    load: LoadStateDict | None = None,
) -> LoadReport:
    """Copy ``state_dict`` into ``model``.

    Args:
        model: Changed in place.
        state_dict: By the model's own names.
        mode: ``finetune`` copies what fits and leaves the rest as it is; ``strict`` refuses anything that does not fit.
        classes: Those the file was trained on, if known; only named in a refusal.
        load: What copies them, an engine's ``load_model_state`` where the model may be spread over several processes;
            None is the model's own ``load_state_dict``.

    Raises:
        CheckpointError: In ``strict`` mode when anything differs; in any mode when nothing fits at all.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
    reshaped = tuple((name, shape, own[name]) for name, shape in shapes.items() if own.get(name, shape) != shape)
    rejected = {name for name, *_ in reshaped}
    if mode == "strict" and reshaped:
        raise _refusal(LoadReport((), (), reshaped, ()), classes)
    fitting = OrderedDict((name, value) for name, value in state_dict.items() if name not in rejected)
    fitting._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    try:
        # Layers may rename old keys on the way.
        result = load(fitting) if load else model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the model: {error}") from error
    fresh = tuple(name for name in result.missing_keys if name not in rejected)
    loaded = tuple(name for name in own if name not in rejected.union(fresh))
    report = LoadReport(loaded, tuple(result.unexpected_keys), reshaped, fresh)
    if mode == "strict" and (report.skipped or report.fresh):
        raise _refusal(report, classes)
    if own and len(fitting) == len(report.skipped):
        there = _some([*report.skipped, *rejected])
        raise CheckpointError(f"nothing in the file fits the model, it is for another one; it holds {there}")
    return report


def _refusal(report: LoadReport, classes: Sequence[str] | None) -> CheckpointError:
    lines = ["the weights do not fit the model", *report.misfits()]
    if classes:
        lines.append(f"    the file was trained on {len(classes)} classes: {_some(tuple(classes))}")
    return CheckpointError("\n".join([*lines, "    use the config of these weights, or fine-tune with load_from"]))


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# ---------------------------------------------------------------- weights of others


class ConvertedWeights(NamedTuple):
    """Weights under a model's own names.

    Args:
        weights: By name; names that the model does not have may be among them.
        format: Which format they had; empty when the names were the model's.
        considered: Formats of these names and other values.
    """

    weights: OrderedDict[str, Tensor]
    format: str = ""
    considered: tuple[str, ...] = ()


def convert(
    module: nn.Module, weights: Mapping[str, Tensor], format: str | None = None, values: bool = True
) -> ConvertedWeights:
    """Bring weights under the names of ``module``, which is not changed.

    Args:
        module: What they are for. The backbone's part of a whole model will do for a backbone.
        weights: As `checkpoint.load` gives them.
        format: The format's name, where the keys alone do not tell; None takes the one that gives the module most of
            its tensors.
        values: Whether weights whose names all fit may still be of a format that changes values alone.

    Raises:
        ComponentError: There is no such format, or formats of two distributions do equally well.
    """
    catalog, own = Catalog.current(), module.state_dict().keys()
    if format is not None:
        row = catalog.find(checkpoint.FORMATS, format)
        return ConvertedWeights(OrderedDict(catalog.load_row(row)().convert(module, dict(weights))), row.name)
    ours = ConvertedWeights(_of_backbone(own, weights))
    fits = own <= ours.weights.keys()
    if fits and not values:
        return ours
    formats = dict(catalog.load_all(checkpoint.FORMATS))
    known = {row: found() for row, found in formats.items() if not fits or isinstance(module, found.values_only)}
    matching = {row: each for row, each in known.items() if each.matches(module, weights.keys())}
    candidates = {row: OrderedDict(each.convert(module, dict(weights))) for row, each in matching.items()}
    fitting = {row: len(own & converted.keys()) for row, converted in candidates.items()}
    most = max(fitting.values(), default=0)
    if not matching or (not fits and most <= len(own & ours.weights.keys())):
        return ours._replace(considered=tuple(row.name for row in known if fits))
    # A distribution knows all of its own formats, so the order of its names may decide between those.
    best = {row.distribution: row for row in reversed(fitting) if fitting[row] == most}
    row = cast(Row, catalog.settle([*reversed(best.values())], "these weights"))
    return ConvertedWeights(candidates[row], row.name)


def _of_backbone(own: Collection[str], weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return the weights of a backbone out of those of a whole model, as long as more names fit then."""
    inner = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    if len(set(own) & inner.keys()) > len(set(own) & weights.keys()):
        return OrderedDict(inner)
    ours = OrderedDict(weights)
    ours._metadata = getattr(weights, "_metadata", OrderedDict())  # type: ignore[attr-defined]  # versions of layers
    return ours
