"""What a run says about itself: what it trains on what at its start, the results and what is next at its end."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch

from segkernel.headers import image_size
from segplug_training.begin_check import epochs_of
from segplug_training.resume import resume_command

if TYPE_CHECKING:
    from torch.nn import Module

    from segkernel.data import Loader
    from segkernel.hookspecs import Run

SETS = ("train", "val", "test")
WEAK = 0.5
"""A class is weak if its IoU is below this share of the mean over classes."""
_MOST_CLASSES = 30
_WIDTH = 110
_HEADER = 1 << 20
"""Bytes of a file that are read for the size of its image."""


def start_text(run: Run) -> str:
    """Return the lines of the start: device, model, sets, classes and length."""
    return "\n".join(_aligned(_start(run)))


def not_loaded(model: Module) -> set[str]:
    """Return the weights that parts of a model name in ``pretrained`` and that nothing has loaded."""
    named = (getattr(part, "pretrained", None) for part in model.modules())
    return {name for name in named if isinstance(name, str)}


def end_text(run: Run, record: Mapping[str, Any]) -> str:
    """Return the lines of the end: the IoU of each class, weak classes, and where pictures and curves are.

    Args:
        run: A run that has ended.
        record: That of its last validation or test.
    """
    return "\n".join(_aligned(_end(run, record)))


def resume_text(run: Run) -> str:
    """Return the command that continues the run, "" if there is nothing to continue."""
    command = resume_command(run.work_dir)
    last = sorted(run.work_dir.glob("checkpoints/iter_*.pt"))
    if not command and last:  # a run built from objects has no config
        return f"to resume: runner.resume({str(last[-1])!r}), then runner.run()"
    return f"to resume: {command}" if command else ""


def _aligned(rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        folded = textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
        yield f"{name:<10}" + folded.replace("\n", "\n" + " " * 10)


def _start(run: Run) -> Iterator[tuple[str, str]]:
    yield "device", ", ".join(_device(run))
    yield "model", _model(run.model)
    sets = {name: part for name in SETS if (part := getattr(run, f"{name}_set")) is not None}
    for name, part in sets.items():
        yield name, _set(part)
    if sets:
        names = run.labels.classes
        yield "classes", f"{len(names)}: {', '.join(names[:_MOST_CLASSES])}{', ...' * (len(names) > _MOST_CLASSES)}"
    if run.train_set is not None:
        yield "length", _length(run)
    yield "files", f"{run.work_dir}: log.txt, metrics.jsonl, checkpoints"


def _device(run: Run) -> Iterator[str]:
    engine = run.engine
    device = engine.device
    yield f"{engine.world_size} x {device.type}" if engine.world_size > 1 else str(device)
    if device.type == "cuda":
        yield torch.cuda.get_device_name(device)
    yield f"threads: {torch.get_num_threads()}"
    workers = getattr(run.train_set or run.val_set or run.test_set, "workers", 0)
    yield f"data workers: {workers}"
    if amp := getattr(engine, "amp", None):
        yield "mixed precision" if amp is True else f"mixed precision ({str(amp).removeprefix('torch.')})"


def _model(model: Module) -> str:
    """Return the classes of a model and its parts, and its number of parameters."""
    parts = [type(getattr(model, name)).__name__ for name in ("backbone", "decode_head") if hasattr(model, name)]
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    size, trained = sum(count for count, _ in counts), sum(count for count, learns in counts if learns)
    text = f"{type(model).__name__}{' of ' * bool(parts)}{' and '.join(parts)}, {size / 1e6:.2f} M parameters"
    return text if trained == size else f"{text}, {trained / 1e6:.2f} M of them trained"


def _set(part: Loader) -> str:
    """Return number, size and source of a set's images; the size is that of the first."""
    height, width = _first_size(part.dataset)
    size = f", the first of {height} x {width}" * bool(height and width)
    return f"{len(part.dataset)} images{size} ({type(part.dataset).__name__})"


def _first_size(dataset: Any) -> tuple[int, int]:
    """Return height and width of the first image, read from its file if the set lists ``files``; 0 if unknown."""
    try:
        if files := getattr(dataset, "files", None):
            with open(files[0][1], "rb") as file:
                return image_size(file.read(_HEADER))
        height, width = dataset[0].size
        return height, width
    except Exception:  # the run itself reports a sample that cannot be read
        return 0, 0


def _length(run: Run) -> str:
    left = run.max_iterations - run.iteration
    text = f"{run.max_iterations} iterations"
    if epochs := epochs_of(run):
        text += f" of {getattr(run, 'batch_size', 1)} images, {epochs:.3g} epochs"
    return text if left == run.max_iterations else f"{text}, from iteration {run.iteration} on"


def _end(run: Run, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    ious = {name: record[f"IoU.{name}"] for name in run.labels.classes if f"IoU.{name}" in record}
    ious = {name: value for name, value in ious.items() if math.isfinite(value)}  # a class may be in no label
    if ious:
        worst_first = sorted(ious.items(), key=itemgetter(1))
        yield f"IoU, {record['kind']}", _values(worst_first[:_MOST_CLASSES][::-1])
        weak = [each for each in worst_first if each[1] < WEAK * sum(ious.values()) / len(ious)]
        yield "weak", _values(weak[:_MOST_CLASSES]) or f"none: the IoU of every class is above {WEAK:g} of the mean"
    if (pictures := run.work_dir / "pictures").is_dir():
        yield "pictures", str(pictures)
    if run.train_set is not None:
        yield "curves", f"seg-kernel plot {run.work_dir}"


def _values(ious: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in ious)
