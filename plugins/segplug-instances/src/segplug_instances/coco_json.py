"""Instances in COCO's JSON forms: run lengths, and the entries of result files.

results_of(prediction["seg"], image_id=42, category_ids=[1, 2, 3])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RunLengths = dict[str, Any]
"""``{"size": [height, width], "counts": text}``."""


def results_of(
    found: Mapping[str, np.ndarray], image_id: Any = 0, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Return the detections of an image as entries of a COCO result file.

    An entry has ``image_id``, ``category_id``, ``bbox`` (left, top, width, height), ``score``, and where the model has
    them ``segmentation`` (run lengths) and ``keypoints`` (x, y, 1 for each).

    Args:
        found: ``boxes`` (n, 4), ``scores``, ``labels`` (n,), and optionally ``masks`` (n, H, W), ``keypoints``
            (n, points, 3).
        image_id: Id of the image.
        category_ids: Ids of the classes; the classes' numbers from 0 when None.
    """
    boxes = found["boxes"].astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    masks = run_lengths(found["masks"], found["masks"].shape[-2:]) if "masks" in found else None
    entries = []
    for index, (box, score, label) in enumerate(zip(boxes.tolist(), found["scores"].tolist(), found["labels"])):
        category = int(label) if category_ids is None else category_ids[int(label)]
        entry: dict[str, Any] = {"image_id": image_id, "category_id": category, "bbox": box, "score": float(score)}
        if masks is not None:
            entry["segmentation"] = masks[index]
        if "keypoints" in found:
            points = found["keypoints"][index].astype(np.float64)
            points = np.concatenate([points[:, :2] - 0.5, np.ones((len(points), 1))], 1)  # COCO's are at pixel centres
            entry["keypoints"] = points.ravel().tolist()
        entries.append(entry)
    return entries


def run_lengths(masks: Any, size: Sequence[int], count: int | None = None) -> list[RunLengths]:
    """Return the masks of objects as run lengths.

    Args:
        masks: (n, H, W) of 0 and others, or polygons: a mapping of ``points`` (P, 2), ``parts``, the first point of
            each polygon and the end, and ``objects``, the object of each polygon.
        size: Height and width.
        count: Number of objects; needed where the last ones may have no polygon.
    """
    from pycocotools import mask

    if isinstance(masks, Mapping):
        return _from_polygons(masks, size, count or 0)
    planes = np.asarray(masks, bool).view(np.uint8)
    return [_text(mask.encode(np.asfortranarray(plane))) for plane in planes]  # a copy of one at a time


def _from_polygons(polygons: Mapping[str, np.ndarray], size: Sequence[int], count: int) -> list[RunLengths]:
    from pycocotools import mask

    points, parts, objects = (np.asarray(polygons[name]) for name in ("points", "parts", "objects"))
    height, width = (int(side) for side in size)
    rings: dict[int, list[list[float]]] = {number: [] for number in range(count)}
    for first, last, owner in zip(parts[:-1], parts[1:], objects):
        rings.setdefault(int(owner), []).append(points[first:last].astype(np.float64).ravel().tolist())
    empty = mask.encode(np.zeros((height, width, 1), np.uint8, "F"))[0]
    encoded = (mask.merge(mask.frPyObjects(rings[n], height, width)) if rings[n] else empty for n in sorted(rings))
    return [_text(entry) for entry in encoded]


def _text(entry: RunLengths) -> RunLengths:
    """Return run lengths that JSON can hold."""
    return {"size": [int(side) for side in entry["size"]], "counts": entry["counts"].decode("ascii")}
