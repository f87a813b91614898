"""The official pixel-level evaluation of Cityscapes, without its scripts (Cordts et al., 2016).

metric = CityscapesMetric()
metric.compute()["averageScoreClasses"]

The IoU of classes and categories come from one confusion matrix. iIoU weights the pixels of each object by the mean
size of its class over its own size, so that small objects count as much as large ones; false positives are not
weighted. It needs the ``instanceIds`` files next to the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import FileName
from segkernel.errors import DataError, UsageError
from segkernel.labels import Labels
from segplug_datasets import image
from segplug_datasets.cityscapes import LABELS
from segplug_datasets.metrics.cityscapes_labels import CATEGORIES, IDS, INSTANCE_CATEGORIES, INSTANCE_SIZES
from segplug_datasets.metrics.counts import align, confusion, labels_of, mean, name_of, percent, prefixed, to_array
from segplug_datasets.report.formats import write_prediction

_ENDS = ("_labelTrainIds.png", "_labelIds.png")


class CityscapesMetric:
    """Metrics from 0 to 1 under the official names: ``averageScoreClasses``, ``averageScoreInstClasses`` (iIoU),
    ``averageScoreCategories``, ``averageScoreInstCategories``, then ``IoU.NAME`` and ``iIoU.NAME``.

    A class that neither occurs nor is predicted is nan and left out of the means; iIoU is nan without instance files.

    Args:
        output_dir: Write each prediction there as a PNG of ``labelIds``, as for the test server.
        format_only: Only write predictions, without metrics; the images need no annotations.
        field: The output and annotation to compare.

    Raises:
        UsageError: When ``format_only`` has no ``output_dir``.
    """

    conformance_inputs: ClassVar = {"num_classes": 19}

    def __init__(self, output_dir: FileName | None = None, format_only: bool = False, field: str = "seg") -> None:
        if format_only and output_dir is None:
            raise UsageError("format_only writes predictions: give output_dir")
        self.output_dir, self.format_only, self.field = output_dir, format_only, field
        self.labels: Labels | None = None  # set by the runner
        self._confusion: Any = np.zeros((len(IDS) + 2, len(IDS) + 1), np.int64)
        self._objects = np.zeros((2, 2, len(IDS)))  # class or category; right, wrong; weighed pixels by class
        self._with_objects = 0

    def update(self, prediction: Any, target: Any) -> None:
        """Count one image.

        Args:
            prediction: A `Prediction`, or train ids (H, W).
            target: A `Targets`, or train ids (H, W); its meta's ``mask_path`` locates the instance file.

        Raises:
            DataError: When the shapes differ, or an instance file has another size.
            UsageError: When the classes are not the 19 of Cityscapes.
        """
        self._check_classes()
        predicted = labels_of(prediction, self.field)
        if self.output_dir is not None:
            write_prediction(self.output_dir, name_of(prediction), to_array(predicted), LABELS, "cityscapes")
        if self.format_only:
            return
        self._confusion = self._confusion + confusion(predicted, labels_of(target, self.field), len(IDS))
        instances = _instances_of(target)
        if instances is not None:
            self._with_objects += 1
            self._objects = self._objects + _weigh_objects(to_array(predicted), instances)

    def merge(self, other: CityscapesMetric) -> None:
        """Add the counts of ``other``."""
        self._confusion = to_array(self._confusion) + to_array(other._confusion)
        self._objects, self._with_objects = self._objects + other._objects, self._with_objects + other._with_objects

    def compute(self) -> dict[str, float]:
        """Return the metrics; none with ``format_only``."""
        if self.format_only:
            return {}
        parts = self._metrics()
        means = {name: float(mean(np.array(list(metrics.values())))) for name, metrics in parts.items()}
        detail: dict[str, float] = {}
        for name, metrics in parts.items():
            kind = "iIoU" if "Inst" in name else "IoU"
            detail |= {f"{kind}.{key}": value for key, value in metrics.items()}
        return prefixed({**means, **detail}, self.field)

    def table(self) -> str:
        """Return IoU and iIoU of every class and category in percent; ``-`` marks absent ones."""
        if self.format_only:
            return f"predictions written to {self.output_dir}"
        parts = self._metrics()
        blocks = [
            ("class", parts["averageScoreClasses"], parts["averageScoreInstClasses"]),
            ("category", parts["averageScoreCategories"], parts["averageScoreInstCategories"]),
        ]
        lines = []
        for title, whole, weighed in blocks:
            rows = [[title, "IoU", "iIoU"]]
            rows += [[name, percent(value), percent(weighed.get(name, np.nan))] for name, value in whole.items()]
            rows.append(["mean", *(percent(float(mean(np.array(list(part.values()))))) for part in (whole, weighed))])
            lines += align(rows, (1, -1))
        return "\n".join(lines)

    def _check_classes(self) -> None:
        if self.labels is not None and self.labels.classes != LABELS.classes:
            raise UsageError("CityscapesMetric is for the 19 classes of Cityscapes, in their order; use IoUMetric")

    def _metrics(self) -> dict[str, dict[str, float]]:
        counts = to_array(self._confusion)[: len(IDS)].astype(np.float64)  # ignored pixels count for no class
        names, places = list(IDS), {name: i for i, name in enumerate(IDS)}
        classes = {name: (name,) for name in names}
        objects = {name: (name,) for name in INSTANCE_SIZES}
        grouped = {name: CATEGORIES[name] for name in INSTANCE_CATEGORIES}
        return {
            "averageScoreClasses": _scores(classes, places, counts),
            "averageScoreInstClasses": _scores(objects, places, counts, self._weighed(0)),
            "averageScoreCategories": _scores(CATEGORIES, places, counts),
            "averageScoreInstCategories": _scores(grouped, places, counts, self._weighed(1)),
        }

    def _weighed(self, kind: int) -> np.ndarray:
        return self._objects[kind] if self._with_objects else np.full_like(self._objects[kind], np.nan)


def _scores(
    groups: Mapping[str, Sequence[str]],
    places: Mapping[str, int],
    counts: np.ndarray,
    weighed: np.ndarray | None = None,
) -> dict[str, float]:
    """Return the IoU of groups of classes; ``weighed`` (2, classes) replaces their own correct and wrong pixels."""
    scores = {}
    for name, members in groups.items():
        ids = [places[member] for member in members]
        inside = counts[np.ix_(ids, ids)].sum()
        right, missed = (inside, counts[ids].sum() - inside) if weighed is None else weighed[:, ids].sum(1)
        total = right + missed + counts[:, ids].sum() - inside
        scores[name] = float(right / total) if total else np.nan
    return scores


def _weigh_objects(predicted: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return (2, 2, classes): right and wrong weighed pixels of objects, by class, and by category of the class."""
    if predicted.shape != instances.shape:
        raise DataError(f"instances of {instances.shape} for a prediction of {predicted.shape} (height, width)")
    category = np.full(256, -1)
    for number, members in enumerate(CATEGORIES.values()):
        category[[list(IDS).index(name) for name in members]] = number
    totals = np.zeros((2, 2, len(IDS)))
    things = instances > 1000
    values, inverse = np.unique(instances[things], return_inverse=True)
    given, sizes = predicted[things], np.bincount(inverse, minlength=len(values))
    places = {IDS[name]: (list(IDS).index(name), size) for name, size in INSTANCE_SIZES.items()}
    known = [places.get(int(value) // 1000) for value in values]
    own = np.array([entry[0] if entry else -2 for entry in known], np.int64)
    hits = np.bincount(inverse[given == own[inverse]], minlength=len(values))
    kin = np.bincount(inverse[category[given] == category[own[inverse]]], minlength=len(values))
    for entry, size, *rights in zip(known, sizes, hits, kin):
        if entry:  # caravans and trailers are not evaluated
            for kind, right in enumerate(rights):
                totals[kind, :, entry[0]] += np.array([right, size - right]) * entry[1] / size
    return totals


def _instances_of(target: Any) -> np.ndarray | None:
    """Return the instance ids (H, W) of an image: its annotation ``instances``, or the file next to its labels."""
    if "instances" in getattr(target, "fields", {}):
        return to_array(target["instances"]).astype(np.int64)
    mask = str(getattr(target, "meta", {}).get("mask_path", ""))
    end = next((end for end in _ENDS if mask.endswith(end)), None)
    path = Path(f"{mask[: -len(end)]}_instanceIds.png") if end else None
    return image.read_mask(path).astype(np.int64) if path is not None and path.exists() else None
