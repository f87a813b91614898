"""Masks of boxes pasted into an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad

from segplug_instances.boxes import expand
from segplug_instances.conventions import Convention


def paste(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], convention: Convention, threshold: float = 0.5
) -> Tensor:
    """Return which pixels of an image belong to each object, bool (n, H, W).

    Args:
        masks: Probabilities (n, M, M).
        boxes: (n, 4) in the coordinates of the convention.
        size: Height and width of the image.
        convention: How masks are resized, and whether a probability equal to the threshold counts.
        threshold: Probability from which a pixel belongs to an object.
    """
    found = torch.zeros((len(masks), *size), dtype=torch.bool, device=masks.device)
    for row in range(len(masks)):
        (top, left), values = paste_one(masks[row], boxes[row], size, convention)
        inside = values >= threshold if convention.paste_by_grid else values > threshold
        found[row, top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return found


def paste_one(
    mask: Tensor, box: Tensor, size: tuple[int, int], convention: Convention
) -> tuple[tuple[int, int], Tensor]:
    """Return the row and column where a mask (M, M) starts in an image, and its probabilities from there on, (h, w)."""
    return (_sampled if convention.paste_by_grid else _resized)(mask.float(), box, size)


def _sampled(mask: Tensor, box: Tensor, size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """Sample a mask at the centres of pixels; outside its box, it falls to 0 within half a position of the mask."""
    start, stop = (box[:2].floor() - 1).clamp(min=0).int().tolist(), (box[2:].ceil() + 1).int().tolist()
    stop = [max(min(last, limit), first) for first, last, limit in zip(start, stop, size[::-1])]
    x, y = (
        (torch.arange(start[i], stop[i], device=box.device) + 0.5 - box[i]) / (box[2 + i] - box[i]).clamp(min=1e-6)
        for i in (0, 1)
    )
    grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), -1) * 2 - 1
    return (start[1], start[0]), grid_sample(mask[None, None], grid[None].to(mask), align_corners=False)[0, 0]


def _resized(mask: Tensor, box: Tensor, size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """Resize a mask, with a border of zeros, to whole pixels, so that its values at the edge are interpolated, too."""
    left, top, right, bottom = expand(box, (mask.shape[0] + 2) / mask.shape[0]).long().tolist()
    shape = max(bottom - top + 1, 1), max(right - left + 1, 1)
    values = interpolate(pad(mask, (1, 1, 1, 1))[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
    row, column = max(top, 0), max(left, 0)
    return (row, column), values[row - top : max(size[0] - top, 0), column - left : max(size[1] - left, 0)]
