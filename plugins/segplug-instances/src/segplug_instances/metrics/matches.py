"""COCO's evaluation, image by image: what is matched in an image is kept, not its masks.

matches = Matches("segm")
matches.add(image_id, truths, detections)       # annotations and results as in COCO's JSON
matches.stats([1, 2, 3])["AP"]

The computations are those of pycocotools (Lin et al., 2014; cocodataset.org/#detection-eval).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from segkernel.errors import UsageError

Kind = Literal["bbox", "segm", "keypoints"]
"""What is compared, in COCO's words."""

ALL_CLASSES = -1
"""The category of everything if classes are not told apart."""


class _Stat(NamedTuple):
    """A mean over thresholds and classes: of precisions or recalls, at an IoU, in a range of areas."""

    precision: bool
    iou: float | None = None
    area: str = "all"
    limit: int = -1


_PRECISIONS = {"AP": _Stat(True), "AP50": _Stat(True, 0.5), "AP75": _Stat(True, 0.75)}
_DETECTION_STATS = {
    **_PRECISIONS,
    **{f"AP_{area}": _Stat(True, None, area) for area in ("small", "medium", "large")},
    **{f"AR@{place}": _Stat(False, limit=place) for place in range(3)},  # named by their limits
    **{f"AR_{area}": _Stat(False, None, area) for area in ("small", "medium", "large")},
}
_KEYPOINT_STATS = {
    **_PRECISIONS,
    **{f"AP_{area}": _Stat(True, None, area) for area in ("medium", "large")},
    "AR": _Stat(False),
    "AR50": _Stat(False, 0.5),
    "AR75": _Stat(False, 0.75),
    **{f"AR_{area}": _Stat(False, None, area) for area in ("medium", "large")},
}


class Matches:
    """The matched detections of images, by class.

    Args:
        kind: ``bbox``, ``segm`` or ``keypoints``.
        limits: Largest numbers of detections per image and class, ascending: COCO's 1, 10 and 100, and 20 for
            keypoints, when None.
        class_agnostic: Whether classes are not told apart, as for proposals; keypoints are always of a class.
        sigmas: Standard deviation of each keypoint, relative to the object's scale; COCO's 17 when None.
    """

    def __init__(
        self,
        kind: Kind,
        limits: Sequence[int] | None = None,
        class_agnostic: bool = False,
        sigmas: Sequence[float] | None = None,
    ) -> None:
        self.kind, self.class_agnostic = kind, class_agnostic and kind != "keypoints"
        self.limits = sorted(limits or ((20,) if kind == "keypoints" else (1, 10, 100)))
        self.sigmas = None if sigmas is None else np.asarray(sigmas, np.float64)
        self.tables: dict[int, dict[int, list[dict[str, Any]]]] = {}
        """Category, then image: pycocotools' result for each range of areas."""
        self.images: set[int] = set()

    def add(self, image: int, truths: Sequence[dict[str, Any]], detections: Sequence[dict[str, Any]]) -> None:
        """Match the detections of an image.

        Args:
            image: Its id; images are taken in the order of their ids, which decides between equal scores.
            truths: COCO annotations: ``category_id``, ``area``, ``iscrowd`` and by kind ``bbox`` (left, top, width,
                height), ``segmentation`` (run lengths), or ``keypoints`` and ``bbox``.
            detections: COCO results: ``category_id``, ``score``, and by kind ``bbox``, ``segmentation``, ``keypoints``.
        """
        self.images.add(image)
        evaluator = self._evaluator()
        annotations = [_with_id(truth, number, self._ignored(truth)) for number, truth in enumerate(truths, 1)]
        results = [_with_id(found, number) for number, found in enumerate(detections, 1)]
        for result in results:
            result["area"] = _area(result, self.kind)
        for store, entries in ((evaluator._gts, annotations), (evaluator._dts, results)):
            for entry in sorted(entries, key=lambda entry: entry["category_id"]) if self.class_agnostic else entries:
                store[image, ALL_CLASSES if self.class_agnostic else entry["category_id"]].append(entry)
        overlaps = evaluator.computeOks if self.kind == "keypoints" else evaluator.computeIoU
        for _, category in {**evaluator._gts, **evaluator._dts}:
            evaluator.ious[image, category] = overlaps(image, category)
            ranges = [evaluator.evaluateImg(image, category, area, self.limits[-1]) for area in _areas(evaluator)]
            self.tables.setdefault(int(category), {})[image] = [_compact(each) for each in ranges]

    def merge(self, other: Matches) -> None:
        """Add the images of ``other``, after these where both have an image of the same id."""
        shift = 0 if self.images.isdisjoint(other.images) else max(self.images) + 1
        self.images |= {image + shift for image in other.images}
        for category, images in other.tables.items():
            self.tables.setdefault(category, {}).update({image + shift: each for image, each in images.items()})

    def stats(self, categories: Sequence[int]) -> dict[str, float]:
        """Return COCO's twelve numbers (ten for keypoints) over classes, from 0 to 1; -1 without ground truth."""
        return self._stats(*self._curves(self._chosen(categories)))

    def per_category(self, categories: Sequence[int]) -> dict[int, dict[str, float]]:
        """Return the numbers of `stats` for each class alone."""
        chosen = self._chosen(categories)
        precision, recall = self._curves(chosen)
        return {
            category: self._stats(precision[:, :, place : place + 1], recall[:, place : place + 1])
            for place, category in enumerate(chosen)
        }

    def _chosen(self, categories: Sequence[int]) -> list[int]:
        return [ALL_CLASSES] if self.class_agnostic else sorted(set(categories))

    def _ignored(self, truth: Mapping[str, Any]) -> bool:
        """Whether an object counts neither as found nor as missed: a crowd, or one without labelled keypoints."""
        points = truth["keypoints"] if self.kind == "keypoints" else ()
        return bool(truth.get("iscrowd")) or (self.kind == "keypoints" and not any(points[2::3]))

    def _evaluator(self) -> Any:
        from pycocotools.cocoeval import COCOeval

        with _silent():
            evaluator = COCOeval(iouType=self.kind)
        evaluator.params.maxDets, evaluator.ious = self.limits, {}
        evaluator.params.useCats = 1
        if self.kind == "keypoints" and self.sigmas is not None:
            evaluator.params.kpt_oks_sigmas = self.sigmas
        return evaluator

    def _curves(self, categories: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return precision (thresholds, recalls, classes, areas, limits) and recall, without the second axis."""
        curves = [self._curve(self.tables.get(category, {})) for category in categories]
        precision, recall = (np.concatenate(part, -3) for part in zip(*curves))
        return precision, recall

    def _curve(self, images: Mapping[int, list[dict[str, Any]]]) -> tuple[np.ndarray, np.ndarray]:
        """Return precision and recall of one class; only images with objects or detections of it take part."""
        evaluator = self._evaluator()
        evaluator.params.catIds, evaluator.params.imgIds = [0], sorted(images)
        evaluator._paramsEval = evaluator.params
        evaluator.evalImgs = [images[image][area] for area in range(len(_areas(evaluator))) for image in sorted(images)]
        with _silent():
            evaluator.accumulate()
        return evaluator.eval["precision"], evaluator.eval["recall"]

    def _stats(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        params = self._evaluator().params
        found: dict[str, float] = {}
        for name, stat in (_KEYPOINT_STATS if self.kind == "keypoints" else _DETECTION_STATS).items():
            if stat.limit >= len(self.limits):
                continue
            values = (precision if stat.precision else recall)[..., params.areaRngLbl.index(stat.area), stat.limit]
            values = values if stat.iou is None else values[np.isclose(params.iouThrs, stat.iou)]
            known = values[values > -1]
            shown = f"AR@{self.limits[stat.limit]}" if name.startswith("AR@") else name
            found[shown] = float(known.mean()) if known.size else -1.0
        return found


def _areas(evaluator: Any) -> list[Any]:
    """Return the ranges of areas: all, small, medium and large."""
    ranges: list[Any] = evaluator.params.areaRng
    return ranges


def _with_id(entry: Mapping[str, Any], number: int, ignored: bool | None = None) -> dict[str, Any]:
    """Return a copy with an id of the image's own, from 1: pycocotools takes an id of 0 for no match."""
    if ignored is None:
        return {**entry, "id": number}
    return {**entry, "id": number, "ignore": ignored, "iscrowd": int(bool(entry.get("iscrowd")))}


def _area(result: Mapping[str, Any], kind: Kind) -> float:
    """Return the area of a detection in square pixels, that of its points' extent for keypoints."""
    from pycocotools import mask

    if kind == "segm":
        return float(mask.area(result["segmentation"]))
    if kind == "keypoints":
        x, y = np.asarray(result["keypoints"], np.float64)[0::3], np.asarray(result["keypoints"], np.float64)[1::3]
        return float((x.max() - x.min()) * (y.max() - y.min()))
    return float(result["bbox"][2] * result["bbox"][3])


def _compact(result: dict[str, Any]) -> dict[str, Any]:
    """Return what `COCOeval.accumulate` needs of a result; matches as yes or no."""
    return {
        "dtScores": np.asarray(result["dtScores"], np.float64),
        "dtMatches": np.asarray(result["dtMatches"]) > 0,
        "dtIgnore": np.asarray(result["dtIgnore"], bool),
        "gtIgnore": np.asarray(result["gtIgnore"], bool),
    }


@contextlib.contextmanager
def _silent() -> Any:
    """Keep pycocotools from printing its progress."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def check_sigmas(points: int, sigmas: Sequence[float] | None) -> None:
    """Check that there is a sigma for each keypoint.

    Raises:
        UsageError: There is not.
    """
    known = 17 if sigmas is None else len(sigmas)
    if points != known:
        raise UsageError(f"objects have {points} keypoints, but {known} sigmas are known; give 'sigmas', one for each")
