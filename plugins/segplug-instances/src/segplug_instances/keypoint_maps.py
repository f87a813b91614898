"""Keypoints as positions in a heat map of each box: targets, loss and decoding (He et al., Mask R-CNN, 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from segplug_instances.conventions import Convention
from segplug_instances.losses import number_of


def keypoint_targets(keypoints: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the positions of keypoints in the heat maps of their boxes, and which of them are in there.

    Args:
        keypoints: x, y, visibility (n, P, 3); 0 is not labelled.
        boxes: (n, 4).
        side: Positions per side of a heat map.

    Returns:
        Index row * side + column, (n, P) int64, 0 where not valid; whether it is valid, bool (n, P). A keypoint on the
        right or bottom edge of its box is in the last column or row.
    """
    start, stop = boxes[:, None, :2], boxes[:, None, 2:]
    places = keypoints[..., :2]
    cells = ((places - start) * (side / (stop - start))).floor().long()
    cells = torch.where(places == stop, side - 1, cells)
    valid = ((cells >= 0) & (cells < side)).all(-1) & (keypoints[..., 2] > 0)
    return (cells[..., 1] * side + cells[..., 0]) * valid, valid


def keypoint_loss(logits: Tensor, index: Tensor, valid: Tensor, normalizer: float | None = None) -> Tensor:
    """Return the cross entropy of heat maps (n, P, M, M), each a distribution over its positions.

    Args:
        logits: Heat maps.
        index: Position of each keypoint, (n, P) int64.
        valid: Which keypoints count, bool (n, P).
        normalizer: What the sum is divided by; the number of valid keypoints if None.
    """
    total = cross_entropy(logits[valid].flatten(1).float(), index[valid], reduction="sum")
    return total / (number_of(valid.sum(), logits) if normalizer is None else normalizer)


def decode_keypoints(maps: Tensor, boxes: Tensor, convention: Convention) -> tuple[Tensor, Tensor]:
    """Return the peaks of heat maps (n, P, M, M), each resized to its box.

    Args:
        maps: Logits.
        boxes: (n, 4) in the coordinates of the convention.
        convention: What the score is; see `Convention.keypoint_score`.

    Returns:
        x, y in pixels and the score, (n, P, 3); the logits of the peaks, (n, P).
    """
    maps = maps.float()
    found, peaks = maps.new_zeros(*maps.shape[:2], 3), maps.new_zeros(maps.shape[:2])
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    for row, (width, height) in enumerate(sides.ceil().int().tolist()):  # one map at a time: they may be large
        resized = interpolate(maps[row][None], (height, width), mode="bicubic", align_corners=False)[0].flatten(1)
        peaks[row], place = resized.max(1)
        cells = torch.stack([place % width, place // width], 1)
        found[row, :, :2] = (cells + 0.5) * (sides[row] / sides[row].ceil()) + boxes[row, :2]
        found[row, :, 2] = _score(maps[row].flatten(1), resized, peaks[row], convention)
    return found, peaks


def _score(maps: Tensor, resized: Tensor, peaks: Tensor, convention: Convention) -> Tensor:
    if convention.keypoint_score == "logit":
        return peaks
    values = resized if convention.keypoint_score == "resized" else maps
    return (peaks - values.logsumexp(1)).exp()


def object_keypoint_similarity(a: Tensor, b: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """Return the OKS (A, B) of keypoints (A, P, 2) and (B, P, 2), from 0 to 1.

    Args:
        a: x, y of the objects that areas belong to.
        b: x, y of other objects.
        areas: Square pixels (A,).
        sigmas: Standard deviation of each keypoint (P,), as a fraction of the square root of the area.
    """
    distance = (a[:, None] - b).square().sum(-1)
    variance = 2 * (2 * sigmas).square() * areas[:, None, None]
    return (-distance / variance.clamp(min=torch.finfo(distance.dtype).tiny)).exp().mean(-1)


def oks_nms(keypoints: Tensor, scores: Tensor, areas: Tensor, sigmas: Tensor, threshold: float) -> Tensor:
    """Return the indices (k,) of objects to which no better one has an OKS above the threshold, best first.

    Args:
        keypoints: x, y (n, P, 2).
        scores: (n,), such as the mean logit of an object's keypoints.
        areas: Square pixels (n,).
        sigmas: As in `object_keypoint_similarity`.
        threshold: From 0 to 1.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    dropped = object_keypoint_similarity(keypoints, keypoints, areas, sigmas) > threshold
    kept = list[int]()
    for row in order:
        if not dropped[kept, row].any():
            kept.append(row)
    return torch.tensor(kept, dtype=torch.long, device=scores.device)
