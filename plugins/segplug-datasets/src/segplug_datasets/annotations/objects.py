"""The fields of a sample that list its objects, made of annotated shapes.

- ``boxes``: (N, 4) float32, left, top, right, bottom, cut at the image's border.
- ``classes``: (N,) int64, places in the data set's ``classes``.
- ``crowd``: (N,) bool, whether several objects that cannot be told apart are one entry.
- ``area``: (N,) float64, the pixels of its mask, or what the file says.
- ``instances``: its mask, as polygons or as a bitmap.
- ``keypoints``: (N, K, 3), in data sets that have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segkernel.errors import DataError
from segkernel.sample import ObjectField, Size
from segplug_datasets.annotations.outline import outline
from segplug_datasets.annotations.raster import Region
from segplug_datasets.fields import Boxes, InstanceMasks, Keypoints, ObjectValues, Polygons, mirrored_points

Instances = Literal["polygons", "masks", "boxes"]
MOST_MASK_BYTES = 2**30
"""Limit of the bitmaps of one image."""
MOST_REGION_BYTES = 2**32
"""Limit of the pixels of all objects of one image, each in its box, while they are read."""


@dataclass
class Shape:
    """One annotated object.

    Args:
        category: Category name in the file; None for pixels that are always ignored.
        region: Pixels of the object.
        layer: Higher layers cover lower ones, regardless of size.
        ignored: Whether the pixels are ignored.
        crowd: Whether it stands for several objects that cannot be told apart.
        box: Left, top, right, bottom in the file; that of the region when None.
        area: Its area in the file; that of the region when None.
        keypoints: (K, 3) x, y and visibility.
        listed: Whether the fields of objects have it.
    """

    category: str | None
    region: Region
    layer: int = 0
    ignored: bool = False
    crowd: bool = False
    box: Sequence[float] | None = None
    area: float | None = None
    keypoints: np.ndarray | None = None
    listed: bool = True


def check_memory(taken: int, number: int) -> None:
    """Check the memory of the pixels of ``number`` objects, ``taken`` bytes.

    Raises:
        DataError: When it is more than `MOST_REGION_BYTES`.
    """
    if taken > MOST_REGION_BYTES:
        what = f"the pixels of its first {number} objects take more than {MOST_REGION_BYTES / 2**30:.3g} GiB"
        raise DataError(f"{what}: too many, or too large\n    cut the image into parts, or make it smaller")


def object_fields(
    objects: Sequence[tuple[Shape, int]], size: Size, instances: Instances, keypoint_names: Sequence[str] = ()
) -> dict[str, ObjectField]:
    """Return the fields of objects, given as shapes with their class ids; those outside the image are left out.

    Args:
        objects: In the order of the file.
        size: Height and width of the image.
        instances: How masks are kept; ``boxes`` leaves them out.
        keypoint_names: Names of the keypoints; without any there is no field for them.

    Raises:
        DataError: When bitmaps would take more than `MOST_MASK_BYTES`.
    """
    boxes = np.array([_box(shape) for shape, _ in objects], np.float64).reshape(-1, 4)
    boxes = boxes.clip(0, [size[1], size[0], size[1], size[0]])
    kept = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).tolist()
    shapes = [objects[number][0] for number in kept]
    areas = [shape.region.area if shape.area is None else shape.area for shape in shapes]
    fields: dict[str, ObjectField] = {
        "boxes": Boxes(boxes[kept].astype(np.float32)),
        "classes": ObjectValues(np.array([objects[number][1] for number in kept], np.int64)),
        "crowd": ObjectValues(np.array([shape.crowd for shape in shapes], bool)),
        "area": ObjectValues(np.array(areas, np.float64)),
    }
    if instances == "polygons":
        fields["instances"] = Polygons.of([polygons_of(shape.region) for shape in shapes])
    elif instances == "masks":
        fields["instances"] = InstanceMasks(_bitmaps(shapes, size))
    if keypoint_names:
        none = np.zeros((len(keypoint_names), 3))
        points = [none if shape.keypoints is None else shape.keypoints for shape in shapes]
        array = np.array(points, np.float32).reshape(-1, *none.shape)
        fields["keypoints"] = Keypoints(array, mirrored_points(keypoint_names))
    return fields


def polygons_of(region: Region) -> list[np.ndarray]:
    """Return polygons (points, 2) whose pixels are those of a region; those it was made of, if any."""
    if region.rings or not region.mask.any():
        return list(region.rings)
    return [outline(region.mask, region.top, region.left)]


def _bitmaps(shapes: Sequence[Shape], size: Size) -> np.ndarray:
    """Return (H, W, N) uint8."""
    needed = len(shapes) * size[0] * size[1]
    if needed > MOST_MASK_BYTES:
        what = f"{len(shapes)} masks of {size[0]} x {size[1]} pixels take {needed / 2**30:.1f} GiB"
        raise DataError(f"{what}\n    read them with instances: polygons")
    planes = np.zeros((len(shapes), *size), np.uint8)
    for plane, shape in zip(planes, shapes):
        shape.region.paint(plane, 1)
    return np.ascontiguousarray(np.moveaxis(planes, 0, 2))


def _box(shape: Shape) -> Sequence[float]:
    """Return the box of a shape: that of the file, of its polygons, or of its pixels."""
    if shape.box is not None:
        return shape.box
    if shape.region.rings:
        points = np.concatenate(shape.region.rings)
        return [*points.min(0), *points.max(0)]
    return shape.region.box or (0, 0, 0, 0)
