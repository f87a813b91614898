"""Field types in addition to the kernel's maps: borders, and the objects of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from segkernel.geometry import Geometry
from segkernel.sample import Field, ObjectField, RasterField, Size
from segplug_datasets.annotations.outline import outline
from segplug_datasets.annotations.raster import Region, polygon, union

if TYPE_CHECKING:
    from typing_extensions import Self


class EdgeMap(RasterField):
    """1 on the borders between classes, uint8."""


class InstanceMasks(ObjectField, RasterField):
    """One plane per object, (H, W, objects) uint8; as a tensor (objects, H, W)."""

    axis = 2
    scalar = False
    stack = Field.stack  # images have different numbers of objects

    def planes(self) -> np.ndarray:
        return np.moveaxis(self.array, 2, 0)

    def masks(self, size: Size) -> np.ndarray | None:
        return self.array

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        return replace(self, array=self.array * visible[..., None].astype(self.array.dtype))


@dataclass
class Polygons(ObjectField):
    """The mask of each object as polygons, whose points move; it is rasterised when its pixels are needed.

    An object has any number of polygons. It is their union, each filled by the even-odd rule.

    Args:
        array: (points, 2) float32, x and y of the points of all polygons.
        parts: (polygons + 1,) int64, where the points of each polygon start in ``array``, and the end of the last.
        objects: (polygons,) int64, the object to which each belongs, ascending.
        number: Number of objects.
    """

    parts: np.ndarray
    objects: np.ndarray
    number: int

    @classmethod
    def of(cls, objects: Sequence[Sequence[np.ndarray]]) -> Self:
        """Return the field of objects, each given by its polygons, (points, 2)."""
        rings = [ring for parts in objects for ring in parts]
        points = np.concatenate([np.zeros((0, 2)), *rings]).astype(np.float32)
        owners = np.repeat(np.arange(len(objects)), [len(parts) for parts in objects])
        return cls(points, np.cumsum([0, *map(len, rings)]).astype(np.int64), owners.astype(np.int64), len(objects))

    @property
    def count(self) -> int:
        return self.number

    def polygons(self) -> list[list[np.ndarray]]:
        """Return the polygons (points, 2) of each object."""
        found: list[list[np.ndarray]] = [[] for _ in range(self.number)]
        for owner, start, end in zip(self.objects.tolist(), self.parts[:-1].tolist(), self.parts[1:].tolist()):
            found[owner].append(self.array[start:end])
        return found

    def apply(self, geometry: Geometry, size: Size) -> Self:
        moved = self._divided() if geometry.bends else self
        return replace(moved, array=geometry.move(moved.array, size).astype(np.float32))

    def _divided(self) -> Self:
        """Return the field with points added to long edges, which are going to be curves."""
        return self.of([[_divided(ring) for ring in parts] for parts in self.polygons()])

    def select(self, keep: np.ndarray) -> Self:
        found = self.polygons()
        return self.of([found[number] for number in np.arange(self.number)[keep].tolist()])

    def join(self, fields: Sequence[Self]) -> Self:
        return self.of([parts for field in fields for parts in field.polygons()])

    def extents(self) -> np.ndarray:
        """Return the box (objects, 4) around the polygons of each object; NaN for those without any."""
        boxes = np.full((self.number, 4), np.nan)
        for number, parts in enumerate(self.polygons()):
            if parts:
                points = np.concatenate(parts)
                boxes[number] = *points.min(0), *points.max(0)
        return boxes

    def inside(self, size: Size) -> np.ndarray:
        """Return which objects overlap the image with the box around their polygons; those without any are kept."""
        left, top, right, bottom = self.extents().T
        return ~((right <= 0) | (bottom <= 0) | (left >= size[1]) | (top >= size[0]))

    def regions(self, size: Size) -> Iterator[Region]:
        """Return the pixels of each object in an image of ``size``, in turn."""
        return (union([polygon(ring, size) for ring in parts]) for parts in self.polygons())

    def masks(self, size: Size) -> np.ndarray | None:
        planes = np.zeros((self.number, *size), np.uint8)
        for plane, region in zip(planes, self.regions(size)):
            region.paint(plane, 1)
        return np.moveaxis(planes, 0, 2)

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        """Return polygons around the visible pixels of objects that are partly covered; the others stay as they are."""
        found = self.polygons()
        for number, region in enumerate(self.regions((visible.shape[0], visible.shape[1]))):
            seen = region.mask & visible[region.window]
            if not np.array_equal(seen, region.mask):
                found[number] = [outline(seen, region.top, region.left)]
        return self.of(found)

    def tensor(self) -> Any:
        """Return tensors by name: ``points`` (points, 2), ``parts`` (polygons + 1,) and ``objects`` (polygons,)."""
        import torch

        arrays = {"points": self.array, "parts": self.parts, "objects": self.objects}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _divided(ring: np.ndarray, longest: float = 4) -> np.ndarray:
    """Return a polygon (points, 2) with the same outline, no edge of which is longer than ``longest`` pixels."""
    edges = np.roll(ring, -1, 0) - ring
    counts = np.ceil(np.abs(edges).max(1, initial=0) / longest).clip(1, _MOST_PIECES).astype(int)
    start = np.repeat(np.cumsum(counts) - counts, counts)
    share = (np.arange(len(start)) - start) / np.repeat(counts, counts)
    return np.repeat(ring, counts, 0) + share[:, None] * np.repeat(edges, counts, 0)


_MOST_PIECES = 1024  # of an edge, however far outside of the image it ends


class ObjectValues(ObjectField):
    """A value per object that no geometric change alters, (objects,): its class, or whether it is a crowd."""

    def apply(self, geometry: Geometry, size: Size) -> Self:
        return self

    def extents(self) -> np.ndarray:
        return np.full((self.count, 4), np.nan)


class Boxes(ObjectField):
    """(objects, 4) float32: left, top, right, bottom in pixels."""

    def apply(self, geometry: Geometry, size: Size) -> Self:
        # Corners suffice, unless the edges of a box become curves.
        moved = geometry.move(_outline(self.array, 9 if geometry.bends else 2), size)
        height, width = geometry.size(size)
        box = np.concatenate([moved.min(1), moved.max(1)], 1)
        return replace(self, array=box.clip(0, [width, height, width, height]).astype(np.float32))

    def extents(self) -> np.ndarray:
        return self.array

    def inside(self, size: Size) -> np.ndarray:
        left, top, right, bottom = self.array.T
        return np.asarray((right > 0) & (bottom > 0) & (left < size[1]) & (top < size[0]))

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


@dataclass
class Keypoints(ObjectField):
    """Points of each object.

    Args:
        array: (objects, points, 3) float32: x, y, visibility (0 not labelled or outside, 1 labelled but hidden, 2
            visible).
        mirrored: For each point, the one that it becomes in a mirror image: left and right exchanged, see
            `mirrored_points`. Empty: points keep their place in the list.
    """

    mirrored: Sequence[int] = ()

    def apply(self, geometry: Geometry, size: Size) -> Self:
        points = self.array.copy()
        points[..., :2] = geometry.move(points[..., :2], size)
        if len(self.mirrored) and _mirrors(geometry, size):
            points = points[:, list(self.mirrored)]
        height, width = geometry.size(size)
        inside = (points[..., :2] >= 0).all(-1) & (points[..., 0] < width) & (points[..., 1] < height)
        points[..., 2] *= inside
        return replace(self, array=points)

    def extents(self) -> np.ndarray:
        """Return the box (objects, 4) around the labelled points of each object; NaN for those without any."""
        points = np.where(self.array[..., 2:] > 0, self.array[..., :2], np.nan)
        low, high = (np.fmin.reduce(points, 1), np.fmax.reduce(points, 1)) if points.size else (points[:, 0],) * 2
        return np.concatenate([low, high], 1)

    def occlude(self, visible: np.ndarray, masks: np.ndarray | None) -> Self:
        """Mark covered points 1, COCO's "labelled, not visible"."""
        points = self.array.copy()
        columns, rows = (points[..., axis].astype(int).clip(0, visible.shape[1 - axis] - 1) for axis in (0, 1))
        points[..., 2] = np.where(visible[rows, columns], points[..., 2], np.minimum(points[..., 2], 1))
        return replace(self, array=points)


def mirrored_points(names: Sequence[str]) -> list[int]:
    """Return, for each keypoint by name, that of the other side: ``left_eye`` and ``right_eye`` are exchanged."""
    swapped = [name.replace("left", "\0").replace("right", "left").replace("\0", "right") for name in names]
    place = {name: number for number, name in enumerate(names)}
    return [place.get(name, number) for number, name in enumerate(swapped)]


def _mirrors(geometry: Geometry, size: Size) -> bool:
    """Whether a change turns the image into a mirror image, as a flip does and a rotation does not."""
    middle = np.array([size[1] / 2, size[0] / 2])
    here, right, down = geometry.move(middle + np.array([[0, 0], [1, 0], [0, 1]]), size)
    (right_x, right_y), (down_x, down_y) = right - here, down - here
    return bool(right_x * down_y < right_y * down_x)
