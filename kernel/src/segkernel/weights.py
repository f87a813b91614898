"""Weights into our models; those of other layouts and sizes are recognised by their keys, converted, resized.

_, report = load_into(model, "swin_tiny.pth", "finetune")
print(report)

What is known about layouts comes from plugins (``segkernel.layouts``); a module says itself how its own weights
change with the image size (a method ``resize_weight(name, value, shape)``).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from segkernel import checkpoint
from segkernel.catalog import Catalog
from segkernel.errors import BrokenPluginError, CheckpointError, suggest
from segkernel.interfaces.model import WeightLayout

Weights = Mapping[str, Tensor]
LoadStateDict = Callable[[Weights], Any]
"""Copies weights into a model; returns ``missing_keys`` and ``unexpected_keys`` as torch does."""
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


# ---------------------------------------------------------------- into a model


@dataclass(frozen=True)
class LoadReport:
    """What became of a file's weights; printing it gives the report.

    Args:
        loaded: Names that were copied into the model.
        skipped: Names that the model does not have.
        reshaped: Names that have another shape in the model, with the file's shape and the model's; left fresh.
        fresh: Names that the file does not have; the model keeps its own values.
        layout: Whose layout the file had, when it was converted.
        resized: Names whose values were resampled or repeated to the model's shape, with both shapes.
        matched: Names whose rows were matched by class name, with how many of how many were.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    fresh: tuple[str, ...]
    layout: str = ""
    resized: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    matched: tuple[tuple[str, int, int], ...] = ()

    def __str__(self) -> str:
        converted = f", converted from the layout of {self.layout}" if self.layout else ""
        total = len(self.loaded) + len(self.reshaped) + len(self.fresh)
        lines = [f"loaded {len(self.loaded)} of {total} tensors{converted}"]
        lines += [f"    resized: {name} from {_shape(old)} to {_shape(new)}" for name, old, new in self.resized]
        lines += [f"    {name}: {count} of {total} classes matched by name" for name, count, total in self.matched]
        for name, file_shape, model_shape in self.reshaped:
            lines.append(f"    left fresh: {name} is {_shape(file_shape)} in the file, {_shape(model_shape)} here")
        lines += [f"    {text}: {_some(names)}" for text, names in self._lists() if names]
        return "\n".join(lines)

    def _lists(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("not in the file, left fresh", self.fresh), ("not in the model, skipped", self.skipped)


def load_into(
    model: nn.Module,
    path: str | Path,
    mode: Literal["strict", "finetune"],
    *,
    classes: Sequence[str] | None = None,
    load: LoadStateDict | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """Copy the weights in a file into ``model``; return all that the file holds, and what was taken.

    A layout that is not ours is converted. To fine-tune, values are resized where that is known, and the rows of the
    last convolution go to the classes of the same name.

    Args:
        model: Changed in place.
        path: As for `checkpoint.load`.
        mode: As for `load_weights`.
        classes: The model's own, to match those of the file by name when fine-tuning.
        load: As for `load_weights`.

    Raises:
        CheckpointError: As `checkpoint.load` and `load_weights`, naming the file.
    """
    state = checkpoint.load(path)
    known = state["meta"].get("classes")
    try:
        prepared = prepare(model, state["state_dict"], resize=mode == "finetune")
        matched = _match_classes(prepared.weights, model, known, classes) if mode == "finetune" else ()
        report = load_weights(model, prepared.weights, mode=mode, classes=known, load=load)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return state, replace(report, layout=prepared.layout, resized=tuple(prepared.resized), matched=matched)


def _match_classes(
    weights: dict[str, Tensor], model: nn.Module, given: Sequence[str] | None, own: Sequence[str] | None
) -> tuple[tuple[str, int, int], ...]:
    """Replace the weights of last convolutions by the model's own, with the rows of classes of the same name."""
    if not given or not own or list(given) == list(own):
        return ()
    rows = [(own.index(name), index) for index, name in enumerate(given) if name in own]
    matched = []
    for name, value in model.state_dict().items():
        file = weights.get(name)
        if file is None or ".conv_seg." not in name or (len(value), len(file)) != (len(own), len(given)):
            continue
        if value.shape[1:] == file.shape[1:]:
            weights[name] = value.clone()
            for target, source in rows:
                weights[name][target] = file[source].to(value.dtype)
            matched.append((name, len(rows), len(own)))
    return tuple(matched)


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    mode: Literal["strict", "finetune"],
    classes: Sequence[str] | None = None,
    load: LoadStateDict | None = None,
) -> LoadReport:
    """Copy ``state_dict`` into ``model``.

    Args:
        model: Changed in place.
        state_dict: As `checkpoint.load` gives it.
        mode: ``finetune`` copies what fits and leaves the rest fresh; ``strict`` refuses anything that does not fit.
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
        raise CheckpointError(_refusal(LoadReport((), (), reshaped, ()), classes))
    fitting = OrderedDict((name, value) for name, value in state_dict.items() if name not in rejected)
    fitting._metadata = getattr(state_dict, "_metadata", OrderedDict())  # type: ignore[attr-defined]
    try:
        # Layers may rename old keys on the way.
        result = load(fitting) if load else model.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the model: {error}") from error
    fresh = tuple(name for name in result.missing_keys if name not in rejected)
    untouched = rejected.union(fresh)
    loaded = tuple(name for name in own if name not in untouched)
    report = LoadReport(loaded, tuple(result.unexpected_keys), reshaped, fresh)
    if mode == "strict" and (report.skipped or report.fresh):
        raise CheckpointError(_refusal(report, classes))
    if own and len(fitting) == len(report.skipped):
        there = _some([*report.skipped, *rejected])
        raise CheckpointError(f"nothing in the file fits the model, it is for another one; it holds {there}")
    return report


def _refusal(report: LoadReport, classes: Sequence[str] | None) -> str:
    lines = ["the weights do not fit the model"]
    for name, file_shape, model_shape in report.reshaped[:8]:
        lines.append(f"    {name}: {_shape(file_shape)} in the file, {_shape(model_shape)} in the model")
    if len(report.reshaped) > 8:
        lines.append(f"    and {len(report.reshaped) - 8} more")
    lines += [f"    {text.split(',')[0]}: {_some(names)}" for text, names in report._lists() if names]
    if classes:
        lines.append(f"    the file was trained on {len(classes)} classes: {_some(tuple(classes))}")
    return "\n".join([*lines, "    use the config these weights were trained with, or load_from to fine-tune"])


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def _some(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
