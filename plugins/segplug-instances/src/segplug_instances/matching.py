"""Assignment of ground truth to anchors and proposals, and the choice of those that are trained (Faster R-CNN)."""

from __future__ import annotations

import torch
from torch import Tensor

from segplug_instances.boxes import inside_image, iou
from segplug_instances.conventions import Convention

_MOST_PAIRS = 1 << 25  # of boxes and objects whose IoU is computed at once, in 130 MB


def match(quality: Tensor, low: float, high: float, allow_low_quality: bool) -> tuple[Tensor, Tensor]:
    """Return for each box the ground truth of the highest quality, and what it is trained as.

    Args:
        quality: IoU (G, N) of ground truth and boxes.
        low: Quality below which a box is negative.
        high: Quality from which a box is positive; between ``low`` and ``high`` it is ignored.
        allow_low_quality: Whether the best boxes of each ground truth are positive, too, whatever their quality.

    Returns:
        Index of the ground truth (N,) int64, 0 if there is none; label (N,) int64: 1 positive, 0 negative, -1 ignored.
    """
    best = quality.amax(1) if allow_low_quality and quality.numel() else None
    return _match(quality, low, high, best)


def _match(quality: Tensor, low: float, high: float, best_of_truth: Tensor | None) -> tuple[Tensor, Tensor]:
    if not len(quality):
        nothing = quality.new_zeros(quality.shape[1], dtype=torch.long)
        return nothing, nothing.clone()
    best, index = quality.max(0)
    labels = torch.full_like(index, -1)
    labels[best < low] = 0
    labels[best >= high] = 1
    if best_of_truth is not None:
        labels[(quality == best_of_truth[:, None]).any(0)] = 1
    return index, labels


def match_anchors(
    anchors: Tensor,
    truth: Tensor,
    size: tuple[int, int],
    low: float,
    high: float,
    convention: Convention,
    margin: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return what `match` returns for anchors (N, 4) and ground truth (G, 4), the best anchors of each included.

    Anchors that leave the image of this height and width by more than ``margin`` pixels are ignored where the
    convention says so; then another anchor is the best of a ground truth.
    """
    outside = ~inside_image(anchors, size, margin) & (not convention.outside_anchors)
    parts = torch.arange(len(anchors), device=anchors.device).split(boxes_at_once(len(truth)))

    def quality(part: Tensor) -> Tensor:
        return iou(truth, anchors[part], convention).masked_fill_(outside[part], -1)

    if len(parts) <= 1:
        index, labels = match(quality(parts[0]), low, high, allow_low_quality=True)
    else:  # the IoU of all pairs is computed twice, but not kept
        best = torch.stack([quality(part).amax(1) for part in parts]).amax(0)
        found = [_match(quality(part), low, high, best) for part in parts]
        index, labels = (torch.cat(each) for each in zip(*found))
    return index, labels.masked_fill(outside, -1)


def boxes_at_once(truths: int) -> int:
    """Return how many boxes are compared at once with this number of objects, so that memory stays bounded."""
    return max(_MOST_PAIRS // max(truths, 1), 1)


def sample(
    labels: Tensor,
    number: int,
    positive_fraction: float,
    replacement: bool = False,
    scarce_negatives: bool = True,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the indices of randomly chosen positives and negatives.

    Args:
        labels: 1 positive, 0 negative, -1 ignored, (N,).
        number: How many in all; if there are few positives, negatives take their place.
        positive_fraction: The largest share of positives.
        replacement: Whether negatives are drawn with replacement, and so may be fewer.
        scarce_negatives: Whether all negatives are taken if there are not more than wanted, rather than none.
        generator: Of random numbers, on the CPU; torch's own of the device of ``labels`` for None.
    """
    positive, negative = (labels == 1).nonzero()[:, 0], (labels == 0).nonzero()[:, 0]
    keys = torch.rand(len(labels), generator=generator, device="cpu" if generator else labels.device).to(labels.device)
    positive = _lowest(positive, keys, int(number * positive_fraction))
    wanted = number - len(positive)
    if len(negative) <= wanted:
        return positive, negative if scarce_negatives else negative[:0]
    if replacement:
        return positive, negative[(keys[:wanted] * len(negative)).long().clamp(max=len(negative) - 1).unique()]
    return positive, _lowest(negative, keys, wanted)


def _lowest(indices: Tensor, keys: Tensor, number: int) -> Tensor:
    """Return ``number`` of the indices, those of the lowest keys: a box less or more changes the choice little."""
    return indices if len(indices) <= number else indices[keys[indices].topk(number, largest=False).indices]
