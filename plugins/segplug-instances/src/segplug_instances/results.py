"""The detections of an image from the boxes and probabilities of its proposals."""

from __future__ import annotations

from torch import Tensor

from segplug_instances.boxes import clip, large_enough
from segplug_instances.conventions import Convention
from segplug_instances.nms import batched_nms


def detections(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    limit: int,
    convention: Convention,
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

    Returns:
        Boxes (k, 4); scores (k,); classes (k,) int64; rows of the input (k,) int64.
    """
    valid = boxes.isfinite().flatten(1).all(1) & scores.isfinite().all(1)
    rows, labels = ((scores[:, :-1] > score_threshold) & valid[:, None]).nonzero().unbind(1)
    boxes = clip(boxes[rows, labels if boxes.shape[1] > 1 else 0], size, convention)
    scores = scores[rows, labels]
    if convention.min_detection:
        kept = large_enough(boxes, convention.min_detection, convention).nonzero()[:, 0]
        boxes, scores, labels, rows = (each[kept] for each in (boxes, scores, labels, rows))
    kept = batched_nms(boxes, scores, labels, nms_threshold, convention)
    if convention.ties_beyond_limit:
        if 0 < limit < len(kept):
            kept = kept[scores[kept] >= scores[kept].topk(limit).values[-1]]
        kept = kept[labels[kept].argsort(stable=True)]
    elif limit > 0:
        kept = kept[:limit]
    return boxes[kept], scores[kept], labels[kept], rows[kept]
