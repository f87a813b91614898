"""Objects as answers: boxes with classes and scores, masks as run lengths or polygons, a map of their classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segkernel.image import opencv
from segkernel.labels import IGNORE, Labels

Found = Mapping[str, np.ndarray]
"""``boxes`` (n, 4), ``scores``, ``labels`` (n,), ``shown`` (n,): whether pictures have it, ``size`` (2,): height and
width; for some models ``masks`` (n, H, W) bool and ``keypoints`` (n, points, 3): x, y and score."""


def described(
    found: Found, known: Labels, key: str = "", mask_format: Callable[[np.ndarray], Any] | None = None
) -> dict[str, Any]:
    """Return id, name and colour of the class, score and box of each object, best first, and its keypoints.

    Args:
        found: The objects.
        known: Classes and colours.
        key: Name of the entry for the mask.
        mask_format: Turns a mask (H, W) into that entry; None leaves it out.
    """
    entries = []
    for row in np.argsort(-found["scores"], kind="stable"):
        label = int(found["labels"][row])
        entry: dict[str, Any] = {"id": label, "name": known.classes[label], "color": list(known.palette[label])}
        entry |= {"score": float(found["scores"][row]), "box": found["boxes"][row].astype(float).tolist()}
        if "keypoints" in found:
            entry["keypoints"] = found["keypoints"][row].astype(float).tolist()
        if mask_format is not None and "masks" in found:
            entry[key] = mask_format(found["masks"][row])
        entries.append(entry)
    return {"objects": entries}


def class_map(found: Found) -> np.ndarray:
    """Return the class of the best object at each pixel, (H, W) uint8, 255 where none is shown.

    Objects without masks are outlines of their boxes.
    """
    height, width = found["size"].tolist()
    labels = np.full((height, width), IGNORE, np.uint8)
    for row in np.argsort(found["scores"], kind="stable"):
        if not found["shown"][row]:
            continue
        label = int(found["labels"][row])
        if "masks" in found:
            labels[found["masks"][row]] = label
        else:
            left, top, right, bottom = np.rint(found["boxes"][row]).astype(int).tolist()
            line = max(2, round(max(height, width) / 300))
            opencv().rectangle(labels, (left, top), (right - 1, bottom - 1), label, line)
    return labels
