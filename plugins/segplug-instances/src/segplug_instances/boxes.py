"""Boxes (x1, y1, x2, y2) in pixels: areas, IoU, and their coding against anchors (Girshick et al., R-CNN, 2014)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from segplug_instances.conventions import Convention

MAX_LOG_SCALE = math.log(1000 / 16)
"""Limit of the decoded logarithm of width and height, from above only, so that exp stays finite."""


def sides(boxes: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """Return the widths and heights (...) in pixels of boxes (..., 4)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x2 - x1 + convention.edge, y2 - y1 + convention.edge


def area(boxes: Tensor, convention: Convention) -> Tensor:
    """Return the areas (...) in square pixels of boxes (..., 4)."""
    width, height = sides(boxes, convention)
    return width * height


def intersection(a: Tensor, b: Tensor, convention: Convention) -> Tensor:
    """Return the common areas (A, B) of boxes (A, 4) and (B, 4)."""
    width, height = (  # in place, for many pairs
        torch.minimum(a[:, None, 2 + axis], b[:, 2 + axis])
        .sub_(torch.maximum(a[:, None, axis], b[:, axis]))
        .add_(convention.edge)
        .clamp_(min=0)
        for axis in (0, 1)
    )
    return width.mul_(height)


def iou(a: Tensor, b: Tensor, convention: Convention) -> Tensor:
    """Return the intersection over union (A, B) of boxes (A, 4) and (B, 4); 0 where both have no area."""
    common = intersection(a, b, convention)
    union = area(a, convention)[:, None] + area(b, convention) - common
    return torch.where(common > 0, common / union, 0)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float], convention: Convention) -> Tensor:
    """Return the deltas (n, 4) that `decode` turns into boxes (n, 4).

    A delta is the offset of the centres in anchor sides, and the logarithm of the ratio of the sides, times ``weights``
    (dx, dy, dw, dh).
    """
    x, y, width, height = _centres(boxes, convention)
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(anchors, convention)
    wx, wy, ww, wh = weights
    dx, dy = wx * (x - anchor_x) / anchor_width, wy * (y - anchor_y) / anchor_height
    dw, dh = ww * torch.log(width / anchor_width), wh * torch.log(height / anchor_height)
    return torch.stack([dx, dy, dw, dh], -1)


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float], convention: Convention) -> Tensor:
    """Return the boxes (n, 4K) of deltas (n, 4K), for K classes, relative to anchors (n, 4)."""
    deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))  # half precision is too coarse for pixels
    x, y, width, height = (each[:, None] for each in _centres(anchors.to(deltas.dtype), convention))
    dx, dy, dw, dh = (deltas.unflatten(-1, (-1, 4)) / deltas.new_tensor(weights)).unbind(-1)
    x, y = x + dx * width, y + dy * height
    width, height = width * dw.clamp(max=MAX_LOG_SCALE).exp(), height * dh.clamp(max=MAX_LOG_SCALE).exp()
    left, top = x - 0.5 * width, y - 0.5 * height
    right, bottom = x + 0.5 * width - convention.edge, y + 0.5 * height - convention.edge
    return torch.stack([left, top, right, bottom], -1).flatten(-2)


def _centres(boxes: Tensor, convention: Convention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    width, height = sides(boxes, convention)
    return boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height, width, height


def clip(boxes: Tensor, size: tuple[int, int], convention: Convention) -> Tensor:
    """Return boxes (..., 4) cut at the border of an image of this height and width."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    right, bottom = width - convention.edge, height - convention.edge
    return torch.stack(
        [x1.clamp(0, right), y1.clamp(0, bottom), x2.clamp(0, right), y2.clamp(0, bottom)], -1
    )  # fmt: skip


def expand(boxes: Tensor, scale: float) -> Tensor:
    """Return boxes (..., 4) with sides x2 - x1 times ``scale`` and the same centres."""
    centre, half = (boxes[..., 2:] + boxes[..., :2]) * 0.5, (boxes[..., 2:] - boxes[..., :2]) * 0.5 * scale
    return torch.cat([centre - half, centre + half], -1)


def large_enough(
    boxes: Tensor, min_size: float, convention: Convention, size: tuple[int, int] | None = None, scale: float = 1.0
) -> Tensor:
    """Return which boxes (n, 4) have sides of at least ``min_size`` by the convention's rule, as bool (n,).

    Args:
        boxes: In pixels of the resized image, cut at its border.
        min_size: Smallest side in pixels.
        size: Height and width of the resized image, for conventions that want a box's centre in it.
        scale: Side of the resized image divided by that of the original.
    """
    if convention.min_size == "original":
        shortest = (boxes[:, 2:] - boxes[:, :2]).amin(-1) / scale + convention.edge
        kept = shortest >= max(min_size, 1)
    else:
        shortest = torch.minimum(*sides(boxes, convention))
        limit = min_size * scale if convention.min_size == "scaled" else min_size
        kept = shortest > limit if convention.min_size == "above" else shortest >= limit
    if convention.centre_inside and size is not None:
        x, y, _, _ = _centres(boxes, convention)
        kept = kept & (x < size[1]) & (y < size[0])
    return kept


def inside_image(boxes: Tensor, size: tuple[int, int], margin: float = 0.0) -> Tensor:
    """Return which boxes (n, 4) leave an image of this height and width by at most ``margin`` pixels, as bool (n,).

    Detectron's rule: the right and bottom edge must be left of ``width + margin`` and above ``height + margin``.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x1 >= -margin) & (y1 >= -margin) & (x2 < size[1] + margin) & (y2 < size[0] + margin)


def to_convention(boxes: Tensor, convention: Convention) -> Tensor:
    """Return boxes (..., 4) of a sample, whose x2 and y2 are outer edges, as the convention counts them."""
    return boxes - boxes.new_tensor([0, 0, convention.edge, convention.edge])


def from_convention(boxes: Tensor, convention: Convention) -> Tensor:
    """Return boxes (..., 4) with outer edges, as in a sample."""
    return boxes + boxes.new_tensor([0, 0, convention.edge, convention.edge])
