"""The detections of an image, from the boxes and probabilities of its proposals."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import TypedDict

from segplug_instances.boxes import clip, large_enough
from segplug_instances.conventions import Convention
from segplug_instances.nms import SoftNMSMethod, VotedScore, batched_nms, box_voting, soft_nms
from segplug_instances.tracing import descending


class SoftNMS(TypedDict, total=False):
    """Arguments of `soft_nms`; its threshold is that of NMS."""

    method: SoftNMSMethod
    sigma: float
    score_threshold: float


class BoxVoting(TypedDict, total=False):
    """Arguments of `box_voting`; the threshold is 0.8 if not given."""

    threshold: float
    scoring: VotedScore
    beta: float


def detections(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    limit: int,
    convention: Convention,
    soft: SoftNMS | None = None,
    voting: BoxVoting | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the best boxes of all classes.

    Args:
        boxes: (n, K, 4), or (n, 1, 4) for boxes that do not depend on the class.
        scores: Probabilities (n, K + 1), background last.
        size: Height and width of the image, at whose border boxes are cut.
        score_threshold: A detection has a higher score.
        nms_threshold: IoU from which a box of the same class is dropped.
        limit: Most detections, 0 for all; see `Convention.ties_beyond_limit`.
        convention: Rules of NMS and of the limit, and the order.
        soft: Soft-NMS in place of NMS.
        voting: Box voting after it.

    Returns:
        Boxes (k, 4); scores (k,); classes (k,) int64; rows of the input (k,) int64.
    """
    valid = boxes.isfinite().flatten(1).all(1) & scores.isfinite().all(1)
    rows, labels = ((scores[:, :-1] > score_threshold) & valid[:, None]).nonzero().unbind(1)
    boxes = clip(boxes[rows, labels if boxes.shape[1] > 1 else 0], size, convention)
    scores = scores[rows, labels]
    if convention.min_detection:
        large = large_enough(boxes, convention.min_detection, convention)
        boxes, scores, labels, rows = boxes[large], scores[large], labels[large], rows[large]
    kept, best = _suppress(boxes, scores, labels, nms_threshold, convention, soft)
    voted = boxes[kept]
    if voting is not None:
        voted, best = _vote(voted, best, labels[kept], boxes, scores, labels, convention, voting)
    first = _first(best, labels[kept], limit, convention)
    return voted[first], best[first], labels[kept[first]], rows[kept[first]]


def _suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, convention: Convention, soft: SoftNMS | None
) -> tuple[Tensor, Tensor]:
    if soft is None:
        kept = batched_nms(boxes, scores, labels, threshold, convention)
        return kept, scores[kept]
    kept, lowered = labels[:0], scores[:0]
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        chosen, found = soft_nms(boxes[rows], scores[rows], threshold, convention, **soft)
        kept, lowered = torch.cat([kept, rows[chosen]]), torch.cat([lowered, found])
    return kept, lowered


def _vote(
    boxes: Tensor, scores: Tensor, labels: Tensor,
    all_boxes: Tensor, all_scores: Tensor, all_labels: Tensor,
    convention: Convention, voting: BoxVoting,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    options = BoxVoting(threshold=0.8) | voting
    boxes, scores = boxes.clone(), scores.clone()
    for label in labels.unique():
        rows, voters = labels == label, all_labels == label
        boxes[rows], scores[rows] = box_voting(
            boxes[rows], scores[rows], all_boxes[voters], all_scores[voters], convention=convention, **options
        )
    return boxes, scores


def _first(scores: Tensor, labels: Tensor, limit: int, convention: Convention) -> Tensor:
    best = descending(scores)[:limit] if limit else descending(scores)
    if not convention.ties_beyond_limit:
        return best
    least = torch.cat([scores[best], scores.new_full((1,), torch.inf)]).amin(0)
    first = (scores >= least).nonzero()[:, 0]
    place = torch.arange(first.shape[0], device=first.device)
    return first[(labels[first] * first.shape[0] + place).argsort()]
