"""Targets of a mask head: the part of each object's mask in a box, as M x M values (He et al., Mask R-CNN, 2017).

A mask is rasterised when a box needs it, so that memory grows with the number of boxes, not with that of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from segplug_instances.boxes import from_convention
from segplug_instances.conventions import Convention
from segplug_instances.roi import align_plane

Polygons = Mapping[str, Tensor]
"""Flat polygons: ``points`` (P, 2) x, y in pixels; ``parts`` (Q + 1,), where each part starts and the last one ends;
``objects`` (Q,), the object of each part."""


def mask_targets(
    masks: Tensor | Polygons,
    boxes: Tensor,
    index: Tensor,
    side: int,
    convention: Convention,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Return the masks of objects in boxes, (n, side, side) float32: 0 or 1, or from 0 to 1 by RoIAlign.

    Args:
        masks: Bitmaps (objects, H, W), or `Polygons`.
        boxes: (n, 4) in the coordinates of the convention.
        index: Object of each box, (n,) int64.
        side: Values per side, M.
        convention: How a mask is made from polygons or bitmaps.
        size: Height and width of the image; needed for polygons with `Convention.mask_bitmaps`.

    Raises:
        ValueError: When there is no size, though polygons are to become bitmaps.
    """
    if not isinstance(masks, Tensor) and not convention.mask_bitmaps:
        return _from_polygons(polygons_of(masks), boxes, index, side, convention)
    bitmap_of = masks.__getitem__ if isinstance(masks, Tensor) else _rasteriser(masks, size, convention)
    found = boxes.new_zeros(len(boxes), side, side, dtype=torch.float32)
    outer = from_convention(boxes, convention)
    for one in index.unique().tolist():  # one bitmap at a time
        rows = index == one
        found[rows] = align_plane(bitmap_of(one).to(boxes.device), outer[rows], side, not convention.mask_bitmaps)
    return found if convention.mask_bitmaps else (found >= 0.5).float()


def _rasteriser(masks: Polygons, size: tuple[int, int] | None, convention: Convention) -> Callable[[int], Tensor]:
    """Return a function of an object to its bitmap."""
    if size is None:
        raise ValueError(f"polygons become bitmaps in the convention {convention.name}, which needs the image's size")
    parts, shape = polygons_of(masks), size
    return lambda one: torch.from_numpy(rasterise(parts.get(one, []), shape))


def _from_polygons(
    parts: Mapping[int, Sequence[np.ndarray]], boxes: Tensor, index: Tensor, side: int, convention: Convention
) -> Tensor:
    found = np.zeros((len(boxes), side, side), np.uint8)
    corners = boxes.detach().cpu().double().numpy()
    for row, (box, one) in enumerate(zip(corners, index.tolist())):
        scale = side / np.maximum(box[2:] - box[:2], convention.mask_side)
        found[row] = rasterise([(points - box[:2]) * scale for points in parts.get(one, [])], (side, side))
    return torch.from_numpy(found).to(boxes.device).float()


def polygons_of(masks: Polygons) -> dict[int, list[np.ndarray]]:
    """Return the points (p, 2) float64 of the parts of each object."""
    points, stops = masks["points"].cpu().double().numpy(), masks["parts"].tolist()
    found: dict[int, list[np.ndarray]] = {}
    for one, start, stop in zip(masks["objects"].tolist(), stops[:-1], stops[1:]):
        found.setdefault(one, []).append(points[start:stop])
    return found


def rasterise(parts: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the union of polygons (p, 2) as COCO rasterises them, uint8 (H, W): 0 or 1."""
    from pycocotools import mask as coco

    flat = [points.ravel().tolist() for points in parts if len(points) >= 3]
    if not flat:
        return np.zeros(size, np.uint8)
    return coco.decode(coco.merge(coco.frPyObjects(flat, *size)))
