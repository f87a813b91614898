"""Outlines of the classes of a label map as polygons along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segkernel.image import opencv

Ring = np.ndarray
"""Corners (N, 2) as (x, y) in pixels, (0, 0) is the outer corner of the first pixel; the first is also the last."""


def polygons(mask: np.ndarray) -> Iterator[list[Ring]]:
    """Yield the outer ring and the holes of each connected part of a mask (H, W) bool.

    Pixels are connected by their edges. The signed area is positive for outer rings and negative for holes; the sum of
    all is exactly the area of the mask.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    _, parts = opencv().connectedComponents(padded, connectivity=4)
    found: dict[int, list[Ring]] = {}
    for ring in _rings(padded):
        top = int(ring[:, 1].min())
        left = int(ring[ring[:, 1] == top, 0].min())
        outer = bool(padded[top + 1, left + 1])  # the pixel below and right of the top left corner
        part = int(parts[top + (1 if outer else 0), left + 1])
        places = found.setdefault(part, [])
        ring = ring if (_signed_area(ring) > 0) is outer else ring[::-1]
        places.insert(0 if outer else len(places), ring)
    yield from found.values()


def _signed_area(ring: Ring) -> float:
    """Return the area by the shoelace formula; its sign is the direction of the ring."""
    x, y = ring[:-1].T.astype(np.int64), ring[1:].T.astype(np.int64)
    return float(np.sum(x[0] * y[1] - y[0] * x[1])) / 2


def _rings(padded: np.ndarray) -> Iterator[Ring]:
    """Yield all rings of a padded mask, each visiting a point once.

    The corners in a row of the grid are joined in pairs by horizontal edges, those in a column by vertical ones, so a
    ring alternates between the two pairings. Where two pixels touch by a corner there are two corners at one place.
    """
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    corner, touching = (a ^ b ^ c ^ d).astype(bool), (a == d) & (b == c) & (a != b)
    rows, columns = np.nonzero(corner | touching)
    twice = touching[rows, columns]
    order = np.repeat(np.arange(len(rows)), 1 + twice)
    second = np.r_[False, order[1:] == order[:-1]] if len(order) else np.zeros(0, bool)
    rows, columns = rows[order], columns[order]
    # The first of two corners belongs to the edge on the left, and to that above if the pixel above left is set.
    upper = second ^ ~(a[rows, columns].astype(bool)) if len(order) else second
    vertical = np.lexsort((upper, rows, columns))
    along = np.arange(len(rows)).reshape(-1, 2)[:, ::-1].ravel()
    down = np.empty(len(rows), np.int64)
    down[vertical] = vertical.reshape(-1, 2)[:, ::-1].ravel()
    points = np.stack([columns, rows], 1)
    across, downwards, left = along.tolist(), down.tolist(), bytearray(b"\1") * len(rows)
    for start in range(len(rows)):
        walk = []
        place = start
        while left[place]:
            walk += [place, across[place]]
            left[place] = left[across[place]] = 0
            place = downwards[across[place]]
        if walk:
            yield from _simple(points[walk], bool(twice.any()))


def _simple(points: np.ndarray, may_touch: bool) -> Iterator[Ring]:
    """Yield a ring, cut where it touches itself."""
    if may_touch:
        path: list[tuple[int, int]] = []
        seen: dict[tuple[int, int], int] = {}
        for point in map(tuple, points.tolist()):
            if point in seen:
                start = seen[point]
                yield np.array([*path[start:], point])
                for gone in path[start + 1 :]:
                    del seen[gone]
                del path[start + 1 :]
                continue
            seen[point] = len(path)
            path.append(point)
        points = np.array(path)
    yield np.concatenate([points, points[:1]])
