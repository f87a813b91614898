"""`ClassWeightsHook`: computes ``class_weight: auto`` of losses from the training labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
"""Method that ``seg-kernel data stats`` proposes."""


class ClassWeightsHook:
    """Compute the weights of losses with ``class_weight: auto``, once, before a run trains.

    The weights are those that ``seg-kernel data stats`` proposes for the training set: median class frequency over the
    class's frequency. For multilabel masks, a class gets the weight of its positive pixels: the ratio of other pixels
    to them. The weights replace ``auto`` in the losses and in the run's config, so that checkpoints have numbers, which
    a resumed run uses. Every run has this hook; without ``auto`` it does nothing.
    """

    priority = Priority.VERY_HIGH - 1
    """Runs before the hooks that save the config."""

    @hookimpl
    def load_checkpoint(self, run: Run, checkpoint: Mapping[str, Any]) -> None:
        """Restore the weights of the resumed run."""
        stored = checkpoint["meta"].get("config") or {}
        known = dict(_settings(stored.get("model")))
        given = {key: field for key, field in _places(run) if isinstance(known.get(key), list)}
        _set(run, {field: known[key] for key, field in given.items()})

    @hookimpl
    def before_run(self, run: Run) -> None:
        """Count the classes of the training set.

        Raises:
            DataError: When its labels contain no class.
            UsageError: When a loss is computed on labels without classes.
        """
        losses = list(_losses(run))
        if not losses:
            return
        fields = dict.fromkeys(field for _, field in losses)
        if run.train_set is None:
            log.warning("class_weight: auto needs a training set; the loss is computed without weights")
            _set(run, dict.fromkeys(fields), config=False)
            return
        dataset = run.train_set.dataset
        found = {field: _weights(run, dataset, field) for field in (fields if run.is_main else ())}
        _set(run, run.engine.agree(found))


def _losses(run: Run) -> Iterator[tuple[Any, str]]:
    """Yield the losses that need weights, with the label field of each."""
    for path, module in run.model.named_modules():
        if isinstance(getattr(module, "class_weight", None), str):
            yield module, _field(run, path)


def _field(run: Run, path: str) -> str:
    """Return the label field of a loss at a dotted path in the model; with several heads it is its head's."""
    first, _, rest = path.partition(".")
    name = rest.partition(".")[0]
    labels: Mapping[str, str] = getattr(run.model, "labels", {})
    return labels.get(name, name) if first == "heads" else "seg"


def _places(run: Run) -> list[tuple[str, str]]:
    """Return the dotted paths of ``auto`` in the config's model, each with its label field."""
    return [(key, _field(run, key)) for key, value in _settings(run.config.get("model")) if _is_auto(key, value)]


def _is_auto(key: str, value: Any) -> bool:
    return value == AUTO and key.rpartition(".")[2] == "class_weight"


def _settings(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, and of lists of them, with their dotted paths."""
    is_list = isinstance(node, list) and any(isinstance(entry, Mapping) for entry in node)
    if isinstance(node, Mapping) or is_list:
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _settings(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _set(run: Run, weights: Mapping[str, list[float] | None], config: bool = True) -> None:
    """Set the weights in the losses, and in the config that checkpoints store."""
    for loss, field in list(_losses(run)):
        if field in weights:
            loss.class_weight = weights[field]
    if config and run.config.get("model"):
        places = {key: weights[field] for key, field in _places(run) if field in weights}
        run.config["model"] = _replaced(run.config["model"], places)


def _replaced(node: Any, places: Mapping[str, Any], path: str = "") -> Any:
    """Return a copy of nested containers with the values at some dotted paths replaced."""
    inner = (lambda key: f"{path}.{key}") if path else str
    if isinstance(node, Mapping):
        return {key: _replaced(value, places, inner(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, places, inner(index)) for index, value in enumerate(node)]
    return places.get(path, node)


def _weights(run: Run, dataset: Dataset, field: str) -> list[float]:
    labels = run.labels if field == "seg" else getattr(dataset, "specs", {}).get(field)
    if labels is None:
        raise UsageError(f"class_weight: auto needs labels {field!r} with classes\n    give numbers instead")
    log.info("class_weight: auto counts the classes of %d training samples", len(dataset))
    if labels.task == "multilabel":
        rule, weights = "negative pixels per positive pixel", positive_weights(dataset, field, len(labels.classes))
    else:
        rule = RULE.replace("_", " ")
        weights = class_weights(count(dataset, field, tuple(labels.classes))).get(RULE, [])
    if not weights:
        raise DataError(f"class_weight: auto finds no class in the training labels {field!r}")
    shown = ", ".join(f"{name} {weight:g}" for name, weight in zip(labels.classes, weights, strict=True))
    log.info("class_weight: auto, by %s: %s", rule, shown)
    return weights


def count(dataset: Dataset, field: str, classes: tuple[str, ...]) -> DatasetStats:
    """Count the pixels of each class in a label field; samples that cannot be used are left out."""
    stats = DatasetStats("train", classes)
    for labels in _label_maps(dataset, field):
        pixels = np.bincount(labels.ravel(), minlength=IGNORE + 1)
        present = {class_id: int(pixels[class_id]) for class_id in range(len(classes)) if pixels[class_id]}
        stats.images += 1
        stats.pixels.update(present)
        stats.images_with.update(present.keys())
        stats.pixels_with.update(dict.fromkeys(present, sum(present.values())))
    return stats


def positive_weights(dataset: Dataset, field: str, classes: int) -> list[float]:
    """Return the ratio of negative to positive pixels of each class, of labels (H, W, K) of 0, 1 and 255; 1 for a class
    that all or none of the known pixels have; empty if no class occurs."""
    counts = np.zeros((2, classes), np.int64)
    for labels in _label_maps(dataset, field):
        counts += [np.count_nonzero(labels == value, axis=(0, 1)) for value in (0, 1)]
    others, positive = counts
    sound = (others > 0) & (positive > 0)
    weights = np.divide(others, positive, out=np.ones(classes), where=sound).round(4)
    return [float(weight) for weight in weights] if positive.any() else []


def _label_maps(dataset: Dataset, field: str) -> Iterator[np.ndarray]:
    for index in range(len(dataset)):
        with suppress(DataError):  # reported when training loads it
            if (labels := dataset[index].get(field)) is not None:
                yield labels.array
