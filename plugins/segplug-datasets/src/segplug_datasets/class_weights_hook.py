"""`ClassWeightsHook`: ``class_weight: auto`` of a loss, weights from what the training labels hold."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.hookspecs import Priority, hookimpl
from segkernel.labels import IGNORE
from segplug_datasets.doctor.stats import DatasetStats, class_weights

if TYPE_CHECKING:
    from segkernel.hookspecs import Run
    from segkernel.interfaces.data import Dataset

log = logging.getLogger(__name__)

AUTO = "auto"
RULE = "median_frequency"
"""Which of the weights that ``seg-kernel data stats`` prints; those that it proposes."""


class ClassWeightsHook:
    """Compute the weights of losses with ``class_weight: auto``, once, before a run trains.

    They are what ``seg-kernel data stats`` proposes for the training set: the median of the classes' frequencies over a
    class's own. They take the place of ``auto`` in the losses and in the run's config, so that a checkpoint holds
    numbers; a resumed run takes these. Every run has this hook; without ``auto`` it does nothing.
    """

    priority = Priority.VERY_HIGH - 1
    """Before what writes the config down."""

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        """Take the weights of the run that goes on."""
        stored = checkpoint["meta"].get("config") or {}
        known = dict(_settings(stored.get("model")))
        given = {key: field for key, field in _places(run) if isinstance(known.get(key), list)}
        _set(run, {field: known[key] for key, field in given.items()})

    @hookimpl
    def before_run(self, run: Run) -> None:
        """Count the classes of the training set.

        Raises:
            DataError: When its labels hold no class.
            UsageError: When a loss learns from labels that have no classes.
        """
        losses = list(_losses(run))
        if not losses:
            return
        fields = dict.fromkeys(field for _, field in losses)
        if run.train_set is None:
            log.warning("class_weight: auto is for training; without a training set the loss has no weights")
            _set(run, dict.fromkeys(fields), config=False)
            return
        dataset = run.train_set.dataset
        found = {field: _weights(run, dataset, field) for field in (fields if run.is_main else ())}
        _set(run, run.engine.agree(found))


def _losses(run: Run) -> Iterator[tuple[Any, str]]:
    """Yield the losses that wait for weights, with the label field that each learns."""
    for path, module in run.model.named_modules():
        if isinstance(getattr(module, "class_weight", None), str):
            yield module, _field(run, path)


def _field(run: Run, path: str) -> str:
    """Return the label field of a loss at a dotted path in the model: of one of several heads, that head's."""
    first, _, rest = path.partition(".")
    name = rest.partition(".")[0]
    labels: Mapping[str, str] = getattr(run.model, "labels", {})
    return labels.get(name, name) if first == "heads" else "seg"


def _places(run: Run) -> list[tuple[str, str]]:
    """Return where the config's model says ``auto``, dotted, each with its label field."""
    return [(key, _field(run, key)) for key, value in _settings(run.config.get("model")) if _is_auto(key, value)]


def _is_auto(key: str, value: Any) -> bool:
    return value == AUTO and key.rpartition(".")[2] == "class_weight"


def _settings(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, and of lists of such, with their dotted paths."""
    is_list = isinstance(node, list) and any(isinstance(entry, Mapping) for entry in node)
    if isinstance(node, Mapping) or is_list:
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _settings(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _set(run: Run, weights: Mapping[str, list[float] | None], config: bool = True) -> None:
    """Give losses, and the config that checkpoints hold, the weights of their label fields."""
    for loss, field in list(_losses(run)):
        if field in weights:
            loss.class_weight = weights[field]
    if config and run.config.get("model"):
        places = {key: weights[field] for key, field in _places(run) if field in weights}
        run.config["model"] = _replaced(run.config["model"], places)


def _replaced(node: Any, places: Mapping[str, Any], path: str = "") -> Any:
    """Return a copy of nested containers with other values at some dotted paths."""
    inner = (lambda key: f"{path}.{key}") if path else str
    if isinstance(node, Mapping):
        return {key: _replaced(value, places, inner(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, places, inner(index)) for index, value in enumerate(node)]
    return places.get(path, node)


def _weights(run: Run, dataset: Dataset, field: str) -> list[float]:
    labels = run.labels if field == "seg" else getattr(dataset, "specs", {}).get(field)
    if labels is None or labels.task == "multilabel":
        raise UsageError(f"class_weight: auto needs labels {field!r} with one class for each pixel\n    write numbers")
    log.info("class_weight: auto counts the classes of %d training samples", len(dataset))
    stats = count(dataset, field, tuple(labels.classes))
    if not (found := class_weights(stats)):
        raise DataError(f"class_weight: auto finds no class in the training labels {field!r}")
    weights = found[RULE]
    shown = ", ".join(f"{name} {weight:g}" for name, weight in zip(labels.classes, weights, strict=True))
    log.info("class_weight: auto is, by %s: %s", RULE.replace("_", " "), shown)
    return weights


def count(dataset: Dataset, field: str, classes: tuple[str, ...]) -> DatasetStats:
    """Count the pixels of each class in a label field; samples that cannot be used are left out."""
    stats = DatasetStats("train", classes)
    for index in range(len(dataset)):
        try:
            labels = dataset[index].get(field)
        except DataError:  # whoever loads it says so
            continue
        if labels is None:
            continue
        pixels = np.bincount(labels.array.ravel(), minlength=IGNORE + 1)
        present = {class_id: int(pixels[class_id]) for class_id in range(len(classes)) if pixels[class_id]}
        stats.images += 1
        stats.pixels.update(present)
        stats.images_with.update(present.keys())
        stats.pixels_with.update(dict.fromkeys(present, sum(present.values())))
    return stats
