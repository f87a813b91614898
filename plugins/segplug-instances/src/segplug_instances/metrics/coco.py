"""`COCOMetric`: average precision of boxes, instance masks and keypoints, as COCO measures it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import FileName, Positive, PositiveInt
from segkernel.errors import DataError, UsageError
from segkernel.files import replacing
from segplug_instances.coco_json import results_of, run_lengths
from segplug_instances.metrics.matches import Kind, Matches, check_sigmas

_OUTPUTS: dict[Kind, str] = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}
_TRUTHS: dict[Kind, str] = {"bbox": "boxes", "segm": "instances", "keypoints": "keypoints"}


def example(number: int) -> Any:
    """Return the prediction and the targets of an image with two objects, one of which is found."""
    from torch import tensor

    from segkernel.sample import Prediction, Targets

    boxes = tensor([[2.0, 3.0, 20.0 + number, 30.0], [30.0, 5.0, 50.0, 25.0]])
    found = {"boxes": boxes + tensor([[2.0], [15.0]]), "scores": tensor([0.9, 0.4 + number / 10])}
    truth = {"boxes": boxes, "classes": tensor([number % 2, 1])}
    meta = {"name": str(number)}
    return Prediction({"seg": {**found, "labels": tensor([number % 2, 1])}}, meta), Targets(truth, dict(meta))


class COCOMetric:
    """COCO's average precision and recall in per cent: ``bbox_AP``, ``bbox_AP50``, ``segm_AR@100`` and so on.

    ``bbox_AP.NAME`` is one class. A number without ground truth, which COCO writes as -1, is nan.

    Images are matched one by one and their masks forgotten. Annotations are the fields ``boxes``, ``classes``,
    ``crowd`` (optional), ``instances``, ``keypoints`` and ``area`` (optional, the area by which objects are small,
    medium or large: that of the mask, or else of the box, when missing).

    Args:
        kinds: What is measured; what both the model and the data set have when None.
        classes: Class names; the runner takes them from the data set when None.
        field: The output to compare; prefixes the metric names unless it is ``seg``.
        limits: Largest numbers of detections per image and class for boxes and masks.
        class_agnostic: Whether classes of boxes and masks are not told apart.
        sigmas: Standard deviation of each keypoint, relative to the object's scale; COCO's 17 when None.
        results_file: JSON file for all detections in COCO's form. A run puts it into its directory, unless the path is
            absolute, and adds ``_val`` or ``_test`` to its name.
        image_ids: Image ids of the file: the meta entry of a sample that has them, or its index when None.
        category_ids: Category ids of the file, one for each class; those of COCO's data sets, else 1, 2, ... when None.
        format_only: Only write ``results_file``; nothing is measured, and the images need no annotations.

    Raises:
        UsageError: When ``format_only`` has no file, or objects have another number of keypoints than ``sigmas``.
    """

    conformance_inputs: ClassVar = {"make": example}

    def __init__(
        self,
        kinds: Sequence[Kind] | None = None,
        classes: Sequence[str] | None = None,
        field: str = "seg",
        limits: Sequence[PositiveInt] = (1, 10, 100),
        class_agnostic: bool = False,
        sigmas: Sequence[Positive] | None = None,
        results_file: FileName | None = None,
        image_ids: str | None = "image_id",
        category_ids: Sequence[int] | None = None,
        format_only: bool = False,
    ) -> None:
        if format_only and results_file is None:
            raise UsageError("format_only writes predictions: give results_file")
        self.kinds, self.classes, self.field, self.limits = kinds, classes, field, limits
        self.class_agnostic, self.sigmas = class_agnostic, sigmas
        self.results_file, self.image_ids, self.category_ids = results_file, image_ids, category_ids
        self.format_only = format_only
        self.work_dir: Path | None = None  # set by the runner
        self.split: str | None = None
        self._matches: dict[str, Matches] = {}
        self._results: list[dict[str, Any]] = []
        self._images = 0

    def update(self, prediction: Any, target: Any) -> None:
        """Match the detections of one image.

        Args:
            prediction: A `Prediction`, whose field ``field`` has ``boxes`` (n, 4), ``scores``, ``labels`` (n,), and
                optionally ``masks`` (n, H, W) and ``keypoints`` (n, points, 3).
            target: The `Targets` of the image.

        Raises:
            DataError: When the image has no annotations of objects.
        """
        found = {name: _array(value) for name, value in prediction[self.field].items()}
        number = prediction.meta.get("index", self._images)
        self._images += 1
        if self.results_file is not None:
            image_id = prediction.meta.get(self.image_ids or "index", number)
            ids = self.category_ids or prediction.meta.get("category_ids") or range(1, len(self._names()) + 1)
            self._results += results_of(found, image_id, ids)
        if not self.format_only:
            self._match(found, {name: _plain(target[name]) for name in target}, number, prediction.meta)

    def merge(self, other: COCOMetric) -> None:
        """Add the images of ``other``."""
        self._results += other._results
        self._images += other._images
        for kind, matches in other._matches.items():
            self._matches.setdefault(kind, self._fresh(kind)).merge(matches)

    def compute(self) -> dict[str, float]:
        """Return the numbers in per cent, the summary first, then one per class; none with ``format_only``."""
        if self.results_file is not None:
            self._write(self._path())
        categories = range(len(self._names()))
        found: dict[str, float] = {}
        for kind, matches in self._matches.items():
            found |= {f"{kind}_{name}": value for name, value in matches.stats(categories).items()}
        for kind, matches in self._matches.items():
            each = {} if matches.class_agnostic else matches.per_category(categories)
            found |= {f"{kind}_AP.{self._names()[number]}": values["AP"] for number, values in each.items()}
        prefix = "" if self.field == "seg" else f"{self.field}."
        return {prefix + name: math.nan if value < 0 else 100 * value for name, value in found.items()}

    def table(self) -> str:
        """Return a table of the average precision of every class, with the means below; ``-`` for no ground truth."""
        if not self._matches:
            return f"results written to {self._path()}" if self.results_file else "no image was measured"
        categories, columns = range(len(self._names())), ("AP", "AP50", "AP75")
        rows = [["class", *(f"{kind} {name}" for kind in self._matches for name in columns)]]
        tables = [matches.per_category(categories) for matches in self._matches.values()]
        for number, name in enumerate(self._names() if not self.class_agnostic else ()):
            rows.append([name, *(_percent(table[number][key]) for table in tables for key in columns)])
        means = [matches.stats(categories) for matches in self._matches.values()]
        rows.append(["mean", *(_percent(stats[key]) for stats in means for key in columns)])
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        pad = lambda row: [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]  # noqa: E731
        return "\n".join("  ".join(pad(row)) for row in rows)

    def _names(self) -> Sequence[str]:
        if not self.classes:
            raise UsageError("COCOMetric must know the classes: give 'classes'")
        return self.classes

    def _fresh(self, kind: Any) -> Matches:
        return Matches(kind, None if kind == "keypoints" else self.limits, self.class_agnostic, self.sigmas)

    def _match(self, found: Mapping[str, Any], truth: Mapping[str, Any], number: int, meta: Mapping[str, Any]) -> None:
        if "boxes" not in truth or "classes" not in truth:
            raise DataError("COCOMetric needs the fields 'boxes' and 'classes' of objects", meta.get("path"))
        if "masks" in found and "instances" in truth:
            truth = {
                **truth,
                "instances": run_lengths(truth["instances"], found["masks"].shape[-2:], len(truth["boxes"])),
            }
        kinds = self.kinds or [kind for kind in _OUTPUTS if _OUTPUTS[kind] in found and _TRUTHS[kind] in truth]
        detections = results_of(found)
        annotations = list(_annotations(truth))
        for kind in kinds:
            if _OUTPUTS[kind] not in found or _TRUTHS[kind] not in truth:
                who, what = ("the model", _OUTPUTS) if _OUTPUTS[kind] not in found else ("the data set", _TRUTHS)
                raise UsageError(f"COCOMetric: kind {kind} needs {what[kind]!r}, which {who} does not have")
            if kind == "keypoints":
                check_sigmas(truth["keypoints"].shape[1], self.sigmas)
            self._matches.setdefault(kind, self._fresh(kind)).add(number, annotations, detections)

    def _path(self) -> Path:
        path = (self.work_dir or Path()) / (self.results_file or "")
        return path.with_stem(f"{path.stem}_{self.split}") if self.split else path

    def _write(self, path: Path) -> None:
        """Write the detections by category, then image, as Detectron does."""
        ordered = sorted(self._results, key=lambda result: (result["category_id"], result["image_id"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:  # every rank writes the same
            temporary.write_text(json.dumps(ordered), "utf-8")


def _annotations(truth: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the objects of an image as COCO's annotations."""
    from pycocotools import mask

    boxes, areas = truth["boxes"].astype(np.float64), truth.get("area")
    crowd = truth.get("crowd", np.zeros(len(boxes), bool))
    for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
        entry: dict[str, Any] = {"category_id": int(truth["classes"][index]), "iscrowd": int(crowd[index])}
        entry |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
        if "instances" in truth and isinstance(truth["instances"], list):
            entry["segmentation"] = truth["instances"][index]
            entry["area"] = float(mask.area(entry["segmentation"]))
        if areas is not None:
            entry["area"] = float(areas[index])
        if "keypoints" in truth:
            points = truth["keypoints"][index].astype(np.float64)
            points[:, :2] -= 0.5 * (points[:, 2:] > 0)  # COCO's points are at pixel centres
            entry["keypoints"] = points.ravel().tolist()
        yield entry


def _plain(value: Any) -> Any:
    return {name: _array(part) for name, part in value.items()} if isinstance(value, Mapping) else _array(value)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.2f}"
