"""Proposals of a region proposal network: the best boxes of each level, without those that overlap (Faster R-CNN)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from segplug_instances.boxes import clip, large_enough
from segplug_instances.conventions import Convention
from segplug_instances.nms import batched_nms
from segplug_instances.tracing import descending

GROUND_TRUTH_LOGIT = math.log((1 - 1e-10) / 1e-10)
"""Logit of a ground truth among the proposals."""


def select(
    logits: Sequence[Tensor],
    boxes: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    pre_nms: int,
    post_nms: int,
    nms_threshold: float,
    min_size: float,
    convention: Convention,
    training: bool = False,
    scales: Sequence[float] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return the boxes (n, 4) and logits (n,) of the proposals of each image, best first.

    Args:
        logits: Objectness (N, n) of each level.
        boxes: Decoded boxes (N, n, 4) of each level.
        sizes: Height and width of each image, at whose border boxes are cut.
        pre_nms: Most boxes per level before NMS.
        post_nms: Most boxes after it; see `Convention.limit_over_batch`.
        nms_threshold: IoU from which a box of the same level is dropped.
        min_size: Smallest side; see `Convention.min_size`.
        convention: Rules for all of these.
        training: Whether the limits are those of training.
        scales: Side of each resized image divided by that of the original; 1 if not given.
    """
    chosen = [level.topk(torch.sym_min(pre_nms, level.shape[1]), dim=1) for level in logits]
    best = [each.gather(1, top.indices[..., None].expand(-1, -1, 4)) for each, top in zip(boxes, chosen)]
    levels = torch.cat([torch.full_like(top.indices[0], level) for level, top in enumerate(chosen)])
    all_boxes, all_logits = torch.cat(best, 1), torch.cat([top.values for top in chosen], 1)
    found = []
    for image, size in enumerate(sizes):
        each = clip(all_boxes[image], size, convention)
        valid = large_enough(each, min_size, convention, size, scales[image] if scales else 1.0)
        valid = valid & each.isfinite().all(-1) & all_logits[image].isfinite()
        kept = _suppress(each[valid], all_logits[image][valid], levels[valid], nms_threshold, convention)
        kept = valid.nonzero()[:, 0][kept]
        if convention.nms_in_input_order:
            kept = _best_of_levels(kept, all_logits[image], levels, len(chosen), post_nms)
        found.append((each[kept], all_logits[image][kept]))
    if training and convention.limit_over_batch and len(logits) > 1:
        return limit_over_batch(found, post_nms)
    return [(each[:post_nms], scores[:post_nms]) for each, scores in found]


def _suppress(boxes: Tensor, logits: Tensor, levels: Tensor, threshold: float, convention: Convention) -> Tensor:
    scores = logits.sigmoid() if convention.ranks_probabilities else logits
    return batched_nms(boxes, scores, levels, threshold, convention)


def _best_of_levels(kept: Tensor, logits: Tensor, levels: Tensor, count: int, limit: int) -> Tensor:
    """Return the first ``limit`` of each of ``count`` levels, which are one after the other in ``kept``; best first."""
    totals = (levels[kept] == torch.arange(count, device=kept.device)[:, None]).sum(1)
    starts = (totals.cumsum(0) - totals)[levels[kept]]
    kept = kept[torch.arange(kept.shape[0], device=kept.device) - starts < limit]
    return kept[descending(logits[kept])]


def limit_over_batch(found: Sequence[tuple[Tensor, Tensor]], limit: int) -> list[tuple[Tensor, Tensor]]:
    """Return the best ``limit`` of the proposals (n, 4) and logits (n,) of all images, for each image."""
    logits = torch.cat([each for _, each in found])
    kept = torch.zeros_like(logits, dtype=torch.bool)
    kept[descending(logits)[:limit]] = True
    parts = kept.split([len(each) for _, each in found])
    return [(boxes[part], each[part]) for (boxes, each), part in zip(found, parts)]


def add_ground_truth(boxes: Tensor, logits: Tensor, truth: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """Return proposals (n, 4) with logits (n,) and ground truth (m, 4), which has a probability of almost 1."""
    sure = torch.full_like(truth[:, 0], GROUND_TRUTH_LOGIT)
    first, second = (truth, sure), (boxes, logits)
    if not convention.ground_truth_first:
        first, second = second, first
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
