"""Loading weights into a model, with a report of what fits.

_, report = load_into(model, "swin_tiny.pth", "finetune")
print(report)
load_pretrained(TheirBackbone(pretrained="weights.pth"))    # as `build` and segplug-heads' segmentors do

Third-party weights are converted to the model's names by plugins' `WeightFormat`; when fine-tuning, tensors of another
size are fitted by `segkernel.nn.fit_shapes`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from segkernel import checkpoint
from segkernel.catalog import Catalog, Row
from segkernel.errors import CheckpointError
from segkernel.interfaces.model import Segmentor
from segkernel.nn import fit_shapes, match_classes

log = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)
Mode = Literal["strict", "finetune"]
Reshaped = tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
"""Names, with the shape in the file and the shape in the model."""
LoadStateDict = Callable[[Mapping[str, Tensor]], Any]
"""Copies weights into a model; returns ``missing_keys`` and ``unexpected_keys`` as torch does."""


@dataclass(frozen=True)
class LoadReport:
    """How a file's weights were loaded; ``str`` of it is the report.

    Args:
        loaded: Names that were copied into the model.
        skipped: Names that the model does not have.
        reshaped: Names that have another shape in the model, which keeps its own values.
        fresh: Names that the file does not have; the model keeps its own values.
        format: The file's weight format; empty when the names were the model's.
        resized: Names whose values were resampled or repeated to the model's shape.
        matched: Names whose rows were matched by class name, with the number of classes matched and in total.
        considered: Formats with the same names but other values, which the file does not allow to distinguish.
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
        lines += [f"    loaded unchanged; if the format is {name}, write {name}::FILE" for name in self.considered]
        return "\n".join([*lines, *self.misfits()])

    def misfits(self) -> list[str]:
        """Return the lines of the report on what does not fit."""
        lines = [f"    {name}: {old} in the file, {new} in the model" for name, old, new in self.reshaped[:8]]
        lines += [f"    and {len(self.reshaped) - 8} more"] * (len(self.reshaped) > 8)
        lists = {"not in the file": self.fresh, "not in the model": self.skipped}
        return [*lines, *(f"    {text}: {_some(names)}" for text, names in lists.items() if names)]


def load_pretrained(model: M) -> M:
    """Load the weights that ``model`` and its parts name in their attribute ``pretrained``; return the model.

    Constructors may only keep the name; those of segplug-backbones call this. A segmentor's weights go into its
    backbone, if it has one. Each file is loaded once: the attribute is None afterwards.

    Raises:
        CheckpointError: As `load_into`, for example when there is no such file.
    """
    for name, part in model.named_modules():
        if isinstance(start := getattr(part, "pretrained", None), str | Path):
            format, _, source = str(start).rpartition("::")
            target: Any = getattr(part, "backbone", part) if isinstance(part, Segmentor) else part
            _, report = load_into(target, source, "finetune", format=format or None)
            part.pretrained = None
            log.info("%s from %s\n%s", name or "backbone", start, report)
    return model


def load_into(
    model: nn.Module,
    source: str | Path | dict[str, Any],
    mode: Mode,
    *,
    classes: Sequence[str] | None = None,
    format: str | None = None,
    load: LoadStateDict | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """Copy the weights in a file into ``model``; return the file's content and a report.

    Args:
        model: Changed in place.
        source: As for `checkpoint.load`, or its result.
        mode: As for `load_weights`. With ``finetune``, position embeddings and the like are resized, and the rows of
            the last convolution go to the classes of the same name.
        classes: The model's classes, to match those of the file by name when fine-tuning.
        format: The weight format of the file; None recognises it.
        load: As for `load_weights`.

    Raises:
        CheckpointError: As `checkpoint.load` and `load_weights`, with the file's path.
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
        mode: ``finetune`` copies what fits and keeps the rest; ``strict`` refuses anything that does not fit.
        classes: The classes that the file was trained on, if known; for the error message only.
        load: Copies the weights, such as an engine's ``load_model_state`` for a model sharded over several processes;
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
        # Layers may rename old keys while loading.
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
        raise CheckpointError(f"no tensor in the file fits the model; the file holds {there}")
    return report


def _refusal(report: LoadReport, classes: Sequence[str] | None) -> CheckpointError:
    lines = ["the weights do not fit the model", *report.misfits()]
    if classes:
        lines.append(f"    the file was trained on {len(classes)} classes: {_some(tuple(classes))}")
    lines += ["    use the config of these weights, or fine-tune with load_from", _CHECK]
    return CheckpointError("\n".join(lines))


_CHECK = "    all differences and probable renames: seg-kernel convert FILE CONFIG --check"


def _some(names: Sequence[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


# ---------------------------------------------------------------- third-party weights


class ConvertedWeights(NamedTuple):
    """Weights under a model's own names.

    Args:
        weights: By name; may include names that the model does not have.
        format: The format they had; empty when the names were the model's.
        considered: Formats with these names but other values.
    """

    weights: OrderedDict[str, Tensor]
    format: str = ""
    considered: tuple[str, ...] = ()


def convert(
    module: nn.Module, weights: Mapping[str, Tensor], format: str | None = None, values: bool = True
) -> ConvertedWeights:
    """Convert weights to the names of ``module``, which is not modified.

    Args:
        module: The target; a backbone also takes the weights of a whole model.
        weights: As returned by `checkpoint.load`.
        format: The format's name, if the keys do not identify it; None takes the format that provides most of the
            module's tensors.
        values: Whether weights whose names all fit may still be of a format that changes values only.

    Raises:
        ComponentError: The format does not exist, or formats of two distributions fit equally well.
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
    # A distribution knows its own formats, so the order of their names may decide between them.
    best = {row.distribution: row for row in reversed(fitting) if fitting[row] == most}
    row = cast(Row, catalog.settle([*reversed(best.values())], "these weights"))
    return ConvertedWeights(candidates[row], row.name)


def _of_backbone(own: Collection[str], weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return the backbone's weights from those of a whole model, if more names fit that way."""
    inner = {key.removeprefix("backbone."): value for key, value in weights.items() if key.startswith("backbone.")}
    if len(set(own) & inner.keys()) > len(set(own) & weights.keys()):
        return OrderedDict(inner)
    ours = OrderedDict(weights)
    ours._metadata = getattr(weights, "_metadata", OrderedDict())  # type: ignore[attr-defined]  # versions of layers
    return ours
