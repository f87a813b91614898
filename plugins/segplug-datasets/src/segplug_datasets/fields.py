"""Field types in addition to the kernel's maps: borders, and the objects of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from segkernel.geometry import Geometry
from segkernel.sample import Field, ObjectField, RasterField, Size

if TYPE_CHECKING:
    from typing_extensions import Self


class EdgeMap(RasterField):
    """1 on the borders between classes, uint8."""


class InstanceMasks(ObjectField, RasterField):
    """One plane per object, (H, W, objects) uint8."""

    axis = 2
    scalar = False
    stack = Field.stack  # images have different numbers of objects

    def masks(self, size: Size) -> np.ndarray | None:
        return self.array

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        return replace(self, array=self.array * visible[..., None].astype(self.array.dtype))


class Boxes(ObjectField):
    """(objects, 4) float32: left, top, right, bottom in pixels."""

    def apply(self, geometry: Geometry, size: Size) -> Self:
        # Corners suffice, unless the edges of a box become curves.
        moved = geometry.move(_outline(self.array, 9 if geometry.bends else 2), size)
        height, width = geometry.size(size)
        box = np.concatenate([moved.min(1), moved.max(1)], 1)
        return replace(self, array=box.clip(0, [width, height, width, height]).astype(np.float32))

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        """Shrink the boxes of partly covered objects to the visible parts of their masks."""
        boxes = self.array.copy()
        for number in range(len(boxes) if masks is not None else 0):
            mask = masks[..., number] > 0  # type: ignore[index]
            left_over = mask & visible
            if left_over.any() and not np.array_equal(left_over, mask):
                rows, columns = np.flatnonzero(left_over.any(1)), np.flatnonzero(left_over.any(0))
                boxes[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return replace(self, array=boxes)

    def remaining(self, visible: np.ndarray) -> np.ndarray:
        """Return which boxes are at least half visible; without masks, boxes are all that is known of objects."""
        kept = np.zeros(self.count, bool)
        for number, (left, top, right, bottom) in enumerate(self.array):
            part = visible[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
            kept[number] = part.size > 0 and part.mean() >= 0.5
        return kept


def _outline(boxes: np.ndarray, points: int) -> np.ndarray:
    """Return ``points`` points on each of the four edges of boxes (objects, 4): (objects, 4 * points, 2)."""
    left, top, right, bottom = boxes.reshape(-1, 4, 1).transpose(1, 0, 2)
    along = np.linspace(0, 1, points)
    x, y = left * (1 - along) + right * along, top * (1 - along) + bottom * along
    edges = [np.broadcast_arrays(*pair) for pair in ((x, top), (x, bottom), (left, y), (right, y))]
    return np.concatenate([np.stack(edge, -1) for edge in edges], 1)


class Keypoints(ObjectField):
    """(objects, points, 3) float32: x, y, visibility (0 not labelled or outside, 1 labelled but hidden, 2 visible)."""

    def apply(self, geometry: Geometry, size: Size) -> Self:
        points = self.array.copy()
        points[..., :2] = geometry.move(points[..., :2], size)
        height, width = geometry.size(size)
        inside = (points[..., :2] >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
        points[..., 2] *= inside
        return replace(self, array=points)

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        """Mark covered points 1, COCO's "labelled, not visible"."""
        points = self.array.copy()
        columns, rows = (points[..., axis].astype(int).clip(0, visible.shape[1 - axis] - 1) for axis in (0, 1))
        points[..., 2] = np.where(visible[rows, columns], points[..., 2], np.minimum(points[..., 2], 1))
        return replace(self, array=points)
