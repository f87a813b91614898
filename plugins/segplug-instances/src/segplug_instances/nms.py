"""Non-maximum suppression, soft-NMS (Bodla et al., 2017) and box voting (Gidaris and Komodakis, 2015)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segplug_instances.backends import torchvision_ops, triton_ops
from segplug_instances.boxes import area, intersection, iou
from segplug_instances.conventions import Convention
from segplug_instances.tracing import descending, is_exporting, while_loop

_BLOCK = 256  # boxes that are compared with all later ones at once

SoftNMSMethod = Literal["linear", "gaussian", "hard"]
VotedScore = Literal["id", "temp_avg", "avg", "iou_avg", "generalized_avg", "quasi_sum"]


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
    if convention.shifted_groups and not is_exporting() and 0 < boxes.numel() <= few:
        shifts = groups.to(boxes) * (boxes.max() + 1)
        return _nms(boxes + shifts[:, None], scores, None, threshold, convention)
    return _nms(boxes, scores, groups, threshold, convention)


def _nms(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, convention: Convention) -> Tensor:
    ops = None if groups is not None or convention.inclusive or convention.suppress_equal else torchvision_ops(boxes)
    if ops is not None:
        return ops.nms(boxes, scores.to(boxes), threshold)
    order, limit = _by_score(scores, convention), least_dropped(threshold, convention)
    kernels = triton_ops(boxes)
    find = kept_boxes if kernels is None else kernels.kept_boxes
    kept = find(boxes[order], None if groups is None else groups[order], limit, convention)
    if convention.nms_in_input_order:
        return torch.zeros_like(kept).scatter(0, order, kept).nonzero()[:, 0]
    return order[kept]


def kept_boxes(boxes: Tensor, groups: Tensor | None, limit: float, convention: Convention) -> Tensor:
    """Return which boxes remain, bool (n,), if each remaining one drops the later ones of its group that it overlaps.

    Args:
        boxes: (n, 4), best first.
        groups: (n,) int64, or None for one group.
        limit: IoU from which a box is dropped.
        convention: Widths.
    """
    areas = area(boxes, convention)

    def overlaps(a: Tensor, b: Tensor) -> Tensor:
        """Return whether boxes a suppress boxes b, (A, B); the IoU of two boxes without area is nan, which does not."""
        common = intersection(boxes[a], boxes[b], convention)
        found = common / (areas[a, None] + areas[b] - common) >= limit
        return found if groups is None else found & (groups[a, None] == groups[b])

    everything = torch.arange(boxes.shape[0], device=boxes.device)
    if is_exporting():
        return _kept_in_order(overlaps(everything, everything))
    kept = torch.ones_like(everything, dtype=torch.bool)
    for start in range(0, len(boxes), _BLOCK):
        block, later = everything[start : start + _BLOCK], everything[start + _BLOCK :]
        block, later = block[kept[block]], later[kept[later]]
        kept[block] = _kept_in_order(overlaps(block, block))
        kept[later] = ~overlaps(block[kept[block]], later).any(0)
    return kept


def _by_score(scores: Tensor, convention: Convention) -> Tensor:
    if convention.nms_in_input_order:
        return scores.shape[0] - 1 - descending(scores.flip(0))
    return descending(scores)


def least_dropped(threshold: float, convention: Convention) -> float:
    """Return the least float32 IoU that suppresses; torch would round a threshold before it compares it."""
    rounded = np.float32(threshold)
    if convention.suppress_equal or float(rounded) > threshold:
        return float(rounded)
    return float(np.nextafter(rounded, np.float32(2)))


def _kept_in_order(overlaps: Tensor) -> Tensor:
    """Return which rows remain, bool (n,), if each remaining row drops the later rows that it overlaps, (n, n).

    Row i is right after i rounds at most, so that the result is right when a round changes nothing.
    """
    later = overlaps.triu(1)

    def changed(kept: Tensor, before: Tensor) -> Tensor:
        return (kept != before).any()

    def round_(kept: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return ~(later & kept[:, None]).any(0), kept.clone()

    state = later.new_ones(later.shape[1]), later.new_zeros(later.shape[1])
    if is_exporting():
        return while_loop(changed, round_, state)[0]
    while changed(*state):
        state = round_(*state)
    return state[0]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    convention: Convention,
    method: SoftNMSMethod = "linear",
    sigma: float = 0.5,
    score_threshold: float = 1e-4,
) -> tuple[Tensor, Tensor]:
    """Return the indices (k,) of boxes, best first, and their scores, lowered by each better box that overlaps.

    Args:
        boxes: (n, 4).
        scores: Probabilities (n,).
        threshold: IoU above which ``linear`` and ``hard`` lower a score.
        convention: Widths.
        method: The factor of a score: 1 - IoU (``linear``), exp(-IoU^2 / sigma) (``gaussian``) or 0 (``hard``).
        sigma: Of ``gaussian``.
        score_threshold: A box whose score falls below it is dropped.
    """
    left, scores, chosen = torch.ones_like(scores, dtype=torch.bool), scores.clone(), list[int]()
    for _ in range(len(boxes)):
        if not left.any():
            break
        best = int(scores.where(left, -torch.inf).argmax())
        chosen.append(best)
        left[best] = False
        overlap = iou(boxes[best : best + 1], boxes, convention)[0]
        if method == "gaussian":
            factor = (-(overlap**2) / sigma).exp()
        else:
            factor = torch.where(overlap > threshold, 1 - overlap if method == "linear" else 0.0, 1.0)
        scores = torch.where(left & (overlap > 0), scores * factor, scores)
        left &= (scores >= score_threshold) | (overlap <= 0)
    kept = torch.tensor(chosen, dtype=torch.long, device=boxes.device)
    return kept, scores[kept]


def box_voting(
    boxes: Tensor,
    scores: Tensor,
    all_boxes: Tensor,
    all_scores: Tensor,
    threshold: float,
    convention: Convention,
    scoring: VotedScore = "id",
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return boxes (n, 4), each the mean of all that overlap it, weighted by their scores, and scores (n,).

    Args:
        boxes: Boxes that NMS kept, (n, 4).
        scores: Probabilities (n,).
        all_boxes: Boxes before NMS, (m, 4), the kept ones included.
        all_scores: Probabilities (m,).
        threshold: IoU from which a box votes.
        convention: Widths.
        scoring: The new score, of the voters' scores: ``id`` leaves it; ``avg`` is the mean; ``iou_avg`` that weighted
            by IoU; ``temp_avg`` the mean at a temperature of beta; ``generalized_avg`` the mean of powers beta;
            ``quasi_sum`` the sum divided by the number of voters to the power beta.
        beta: See ``scoring``.
    """
    overlaps = iou(boxes, all_boxes, convention)
    votes = (overlaps >= threshold).to(all_scores)
    weights, count = votes * all_scores, votes.sum(1)
    voted = (weights / weights.sum(1, keepdim=True))[..., None].mul(all_boxes).sum(1)
    if scoring == "avg":
        scores = weights.sum(1) / count
    elif scoring == "iou_avg":
        scores = (weights * overlaps).sum(1) / (votes * overlaps).sum(1)
    elif scoring == "temp_avg":
        logits = torch.stack([all_scores, 1 - all_scores]).log() / beta
        scores = (votes * logits.softmax(0)[0]).sum(1) / count
    elif scoring == "generalized_avg":
        scores = ((votes * all_scores**beta).sum(1) / count) ** (1 / beta)
    elif scoring == "quasi_sum":
        scores = weights.sum(1) / count**beta
    return voted, scores
