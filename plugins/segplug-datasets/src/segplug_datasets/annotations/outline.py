"""Outlines of masks: polygons from which the same pixels follow."""

from __future__ import annotations

import numpy as np


def outline(mask: np.ndarray, top: int = 0, left: int = 0) -> np.ndarray:
    """Return one polygon (points, 2) float32, x and y, whose inside is ``mask``, (H, W) bool, with its corner there.

    It runs along the edges of the pixels. Several areas, and holes, are connected by lines that are passed in both
    directions, so that the even-odd rule, and COCO's, fill exactly the mask. An empty mask has no points.
    """
    corners = _corners(mask)
    if not len(corners):
        return np.zeros((0, 2), np.float32)
    across, along = _pairs(corners, 1), _pairs(corners, 0)
    rings = [ring for ring in _rings(across, along) if len(ring)]
    start = corners[rings[0][:1]]
    closed = [corners[[*ring, ring[0]]] for ring in rings]
    bridged = [closed[0], *(part for ring in closed[1:] for part in (ring, start))]
    points = np.concatenate(bridged if len(rings) > 1 else [closed[0][:-1]])
    return (points + np.array([left, top])).astype(np.float32)


def _corners(mask: np.ndarray) -> np.ndarray:
    """Return the points (N, 2), x and y, at which the border of a mask turns; twice where two pixels touch."""
    framed = np.pad(mask, 1).astype(np.int8)
    above_left, above_right, below_left, below_right = (
        framed[rows, columns] for rows in (slice(-1), slice(1, None)) for columns in (slice(-1), slice(1, None))
    )
    odd = (above_left ^ above_right ^ below_left ^ below_right) > 0
    touching = (above_left == below_right) & (above_right == below_left) & (above_left != above_right)
    count = odd + 2 * touching.astype(np.int8)
    rows, columns = np.nonzero(count)
    return np.repeat(np.stack([columns, rows], 1), count[rows, columns], 0)


def _pairs(corners: np.ndarray, axis: int) -> np.ndarray:
    """Return, for each corner, the other end of the edge between them; ``axis`` is the coordinate that both share."""
    order = np.lexsort((corners[:, 1 - axis], corners[:, axis]))
    other = np.empty(len(order), np.int64)
    other[order] = order[np.arange(len(order)) ^ 1]
    return other


def _rings(across: np.ndarray, along: np.ndarray) -> list[list[int]]:
    """Return closed sequences of corners, which edges in the two directions connect in turn."""
    across_of, along_of, free, rings = across.tolist(), along.tolist(), [True] * len(across), []
    for first in range(len(free)):
        ring, place = [], first
        while free[place]:
            there = across_of[place]
            free[place] = free[there] = False
            ring += [place, there]
            place = along_of[there]
        rings.append(ring)
    return rings
