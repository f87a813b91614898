"""Non-maximum suppression, soft-NMS (Bodla et al., 2017) and box voting (Gidaris and Komodakis, 2015)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segplug_instances.boxes import area, intersection
from segplug_instances.conventions import Convention

_BLOCK = 256  # boxes that are compared with all later ones at once

SoftNMSMethod = Literal["linear", "gaussian", "hard"]
VotedScore = Literal["ID", "TEMP_AVG", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM"]


def nms(boxes: Tensor, scores: Tensor, threshold: float, convention: Convention) -> Tensor:
    """Return the indices (k,) of the boxes that no box of higher score overlaps.

    Args:
        boxes: (n, 4).
        scores: (n,), in any unit.
        threshold: IoU from which a box is dropped; see `Convention.suppress_equal`.
        convention: Widths, the treatment of equal values, and the order of the result.
    """
    return _nms(boxes, scores, None, threshold, convention)


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, convention: Convention) -> Tensor:
    """Return the indices (k,) of the boxes kept by `nms` in each of the ``groups``, int64 (n,), in the same order."""
    few = 4000 if boxes.device.type == "cpu" else 20000  # coordinates; with more, torchvision visits group by group
    if len(boxes) and convention.shifted_groups and boxes.numel() <= few:
        shifts = groups.to(boxes) * (boxes.max() + 1)
        return _nms(boxes + shifts[:, None], scores, None, threshold, convention)
    return _nms(boxes, scores, groups, threshold, convention)


def _nms(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, convention: Convention) -> Tensor:
    order = _by_score(scores, convention)
    boxes, limit = boxes[order], _least_dropped(threshold, convention)
    areas, groups = area(boxes, convention), None if groups is None else groups[order]

    def overlaps(a: Tensor, b: Tensor) -> Tensor:
        """Return whether boxes a suppress boxes b, (A, B); the IoU of two boxes without area is nan, which does not."""
        common = intersection(boxes[a], boxes[b], convention)
        found = common / (areas[a, None] + areas[b] - common) >= limit
        return found if groups is None else found & (groups[a, None] == groups[b])

    everything = torch.arange(len(boxes), device=boxes.device)
    kept = torch.ones_like(everything, dtype=torch.bool)
    for start in range(0, len(boxes), _BLOCK):
        block, later = everything[start : start + _BLOCK], everything[start + _BLOCK :]
        block, later = block[kept[block]], later[kept[later]]
        kept[block] = _kept_in_order(overlaps(block, block))
        kept[later] = ~overlaps(block[kept[block]], later).any(0)
    found = order[kept]
    return found.sort().values if convention.nms_in_input_order else found


def _by_score(scores: Tensor, convention: Convention) -> Tensor:
    if convention.nms_in_input_order:
        return scores.argsort(stable=True).flip(0)
    return scores.argsort(descending=True, stable=True)


def _least_dropped(threshold: float, convention: Convention) -> float:
    """Return the least float32 IoU that suppresses; torch would round a threshold before it compares it."""
    rounded = np.float32(threshold)
    if convention.suppress_equal or float(rounded) > threshold:
        return float(rounded)
    return float(np.nextafter(rounded, np.float32(2)))


def _kept_in_order(overlaps: Tensor) -> Tensor:
    """Return which rows remain, bool (n,), if each remaining row drops the later rows that it overlaps, (n, n).

    Row i is right after i rounds at most; a round that changes nothing is the last.
    """
    later = overlaps.triu(1)
    kept, before = ~later.any(0), None
    while before is None or not torch.equal(kept, before):
        kept, before = ~(later & kept[:, None]).any(0), kept
    return kept
