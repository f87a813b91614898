"""Rasterisation of polygons, by one of two rules.

``area``: a pixel belongs to a polygon when its centre is inside (even-odd rule where the outline crosses itself; a
centre on the outline belongs to the shape on its right, or below). Coordinates are continuous, (0, 0) is the outer
corner of the first pixel. Neighbours that share an edge neither overlap nor leave a gap. It is COCO's rule, except that
COCO rounds points to a fifth of a pixel.

``outline``: points are rounded to pixel indices, and all pixels on the outline belong to the polygon (OpenCV's
``fillPoly``). It reproduces masks exactly from their contours, and makes other shapes half a pixel larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from segkernel.errors import DataError
from segkernel.image import opencv
from segkernel.sample import Size

Rule = Literal["area", "outline"]

_FAR = 2.0**20  # larger than any image; keeps arithmetic on extreme coordinates finite


@dataclass(frozen=True)
class Region:
    """A set of pixels of an image: ``mask`` (h, w) bool, whose first pixel is at (top, left).

    Args:
        rings: The polygons, (points, 2) x and y, whose pixels these are; empty when it was not made of polygons.
    """

    top: int
    left: int
    mask: np.ndarray
    rings: tuple[np.ndarray, ...] = ()

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom of its pixels; None without any."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return None
        left, top = self.left + int(columns[0]), self.top + int(rows[0])
        return left, top, self.left + int(columns[-1]) + 1, self.top + int(rows[-1]) + 1

    def cropped(self) -> Region:
        """Return the same pixels in the smallest array that holds them."""
        if (box := self.box) is None:
            return NOTHING
        left, top, right, bottom = box
        mask = self.mask[top - self.top : bottom - self.top, left - self.left : right - self.left]
        return Region(top, left, mask.copy(), self.rings)

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns that ``mask`` is of."""
        return slice(self.top, self.top + self.mask.shape[0]), slice(self.left, self.left + self.mask.shape[1])

    def paint(self, canvas: np.ndarray, value: float) -> None:
        """Write ``value`` into the pixels of the region."""
        canvas[self.window][self.mask] = value


NOTHING = Region(0, 0, np.zeros((0, 0), bool))


def polygon(points: np.ndarray, size: Size, rule: Rule = "area") -> Region:
    """Return the pixels of an image of ``size`` inside a polygon.

    Args:
        points: (N, 2) x and y of its corners, in pixels; the last is connected to the first.
        size: Height and width.
        rule: Which pixels belong to it, see above.
    """
    points = points.clip(-_FAR, _FAR)
    if rule == "outline":
        return _with_outline(points, size)
    if len(points) < 3:
        return NOTHING
    region = _by_centres(points - 0.5, size)  # the centre of the first pixel becomes (0, 0)
    return replace(region, rings=(points,))


def union(regions: Sequence[Region]) -> Region:
    """Return the union of regions, with the polygons of those without pixels, too."""
    if len(regions) == 1:
        return regions[0]
    rings = tuple(ring for region in regions for ring in region.rings)
    regions = [region for region in regions if region.mask.size]
    if not regions:
        return replace(NOTHING, rings=rings)
    top, left = min(r.top for r in regions), min(r.left for r in regions)
    bottom = max(r.top + r.mask.shape[0] for r in regions)
    right = max(r.left + r.mask.shape[1] for r in regions)
    canvas = np.zeros((bottom - top, right - left), bool)
    for region in regions:
        Region(region.top - top, region.left - left, region.mask).paint(canvas, True)
    return Region(top, left, canvas, rings if all(region.rings for region in regions) else ())


def rectangle(left: float, top: float, right: float, bottom: float, size: Size, degrees: float = 0) -> Region:
    """Return the pixels whose centres are in a rectangle, rotated clockwise about its own centre."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return polygon(turned(corners, corners.mean(0), degrees), size)


def turned(points: np.ndarray, about: np.ndarray, degrees: float) -> np.ndarray:
    """Return points (N, 2) rotated clockwise, as seen on the image, about a point."""
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return (points - about) @ np.array([[cosine, sine], [-sine, cosine]]) + about


def ellipse(x: float, y: float, radius_x: float, radius_y: float, size: Size, degrees: float = 0) -> Region:
    """Return the pixels whose centres are in an ellipse about (x, y), rotated clockwise."""
    if radius_x <= 0 or radius_y <= 0:
        return NOTHING
    reach = max(radius_x, radius_y)
    window = _window(np.array([[x - reach, y - reach], [x + reach, y + reach]]) - 0.5, size)
    if window is None:
        return NOTHING
    top, left, bottom, right = window
    centres = np.stack(np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5), -1)
    back = turned(centres.reshape(-1, 2), np.array([x, y]), -degrees) - (x, y)
    inside = ((back / (radius_x, radius_y)) ** 2).sum(1) <= 1
    return Region(top, left, inside.reshape(bottom - top, right - left))


def line(points: np.ndarray, width: float, size: Size) -> Region:
    """Return the pixels whose centres are at most half of ``width`` from lines between points (N, 2), in pixels."""
    points = points.clip(-_FAR, _FAR)
    half = max(width, 1) / 2
    ends = [ellipse(x, y, half, half, size) for x, y in points]
    return union(ends + [_bar(first, last, half, size) for first, last in pairwise(points)])


def as_points(values: Sequence[float] | np.ndarray, where: str = "") -> np.ndarray:
    """Return numbers, flat or in pairs, as (N, 2) points.

    Raises:
        DataError: When they are not finite numbers, or not in pairs.
    """
    try:
        points = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"points must be pairs of numbers, not {str(values)[:60]}", where or None) from None
    if points.size % 2 or not np.isfinite(points).all() or (points.ndim > 1 and points.shape[-1] != 2):
        raise DataError(f"points must be pairs of numbers, not {str(values)[:60]}", where or None)
    return points.reshape(-1, 2)


def _bar(first: np.ndarray, last: np.ndarray, half: float, size: Size) -> Region:
    """Return the pixels within ``half`` pixels of a line, with butt caps."""
    along = last - first
    length = np.hypot(*along)
    if length == 0:
        return NOTHING
    side = np.array([-along[1], along[0]]) * half / length
    return polygon(np.stack([first + side, last + side, last - side, first - side]), size)


def _window(points: np.ndarray, size: Size) -> tuple[int, int, int, int] | None:
    """Return the bounding box (top, left, bottom, right) inside the image; None when it is empty."""
    left, top = np.maximum(np.ceil(points.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.floor(points.max(0)) + 1, (size[1], size[0])).astype(int)
    return (int(top), int(left), int(bottom), int(right)) if top < bottom and left < right else None


def _by_centres(points: np.ndarray, size: Size) -> Region:
    window = _window(points, size)
    if window is None:
        return NOTHING
    top, left, bottom, right = window
    x, y = points.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    upper, lower = np.minimum(y, next_y), np.maximum(y, next_y)
    first, last = (np.ceil(edge).clip(top, bottom).astype(int) for edge in (upper, lower))
    edge = np.repeat(np.arange(len(x)), last - first)  # one entry per row that an edge crosses
    start = np.cumsum(last - first) - (last - first)
    row = first[edge] + np.arange(len(edge)) - start[edge]
    cross = x[edge] + (row - y[edge]) * (next_x - x)[edge] / (next_y - y)[edge]
    column = np.ceil(cross).clip(left, right).astype(int) - left
    width = right - left + 1
    crossings = np.bincount((row - top) * width + column, minlength=(bottom - top) * width)
    # A pixel is inside when an odd number of edges is left of it.
    odd = (crossings.astype(np.uint8) & 1).reshape(-1, width)[:, :-1]
    return Region(top, left, np.bitwise_xor.accumulate(odd, 1).view(bool))


def _with_outline(points: np.ndarray, size: Size) -> Region:
    if not len(points):
        return NOTHING
    corners = np.round(points).astype(np.int32)
    window = _window(corners.astype(np.float64), size)
    if window is None:
        return NOTHING
    top, left, bottom, right = window
    canvas = np.zeros((bottom - top, right - left), np.uint8)
    opencv().fillPoly(canvas, [(corners - (left, top)).astype(np.int32).reshape(-1, 1, 2)], 1)
    return Region(top, left, canvas.astype(bool))
