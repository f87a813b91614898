"""Losses of the region proposal network, the boxes, the masks and the keypoints, for given samples.

Smooth L1 is that of Fast R-CNN (Girshick, 2015); the others are cross entropies. The references divide them by
different numbers, see `Convention.rpn_normalizer`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from segkernel.nn import mean_over_ranks
from segplug_instances.conventions import Convention


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Return 0.5 d^2 / beta for a difference |d| < beta, else |d| - beta / 2, of each element; |d| for beta 0."""
    difference = (prediction - target).abs()
    if beta == 0:
        return difference
    return torch.where(difference < beta, 0.5 * difference**2 / beta, difference - 0.5 * beta)


def number_of(count: int | Tensor, like: Tensor) -> Tensor:
    """Return what a sum over ``count`` entries is divided by, so that several ranks have the loss of the whole batch.

    It is above 0 also without entries, whose sum is 0. Every rank must call this equally often.
    """
    count = torch.as_tensor(count, device=like.device, dtype=torch.float32)
    return mean_over_ranks(count).clamp(min=1e-6)


def rpn_losses(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    labels: Tensor,
    targets: Tensor,
    beta: float,
    batch_size: int,
    convention: Convention,
) -> tuple[Tensor, Tensor]:
    """Return the losses of objectness and boxes.

    Args:
        logits: (N, n) of each level.
        deltas: (N, n, 4) of each level.
        labels: (N, sum of n): 1 positive, 0 negative, -1 not sampled.
        targets: Deltas (N, sum of n, 4) of positives; other rows may hold any value.
        beta: Of `smooth_l1`.
        batch_size: Anchors to sample per image.
        convention: What the sums are divided by.
    """
    sampled, positive, images = labels >= 0, labels == 1, number_of(len(labels), labels)
    all_logits, all_deltas = torch.cat(list(logits), 1).float(), torch.cat(list(deltas), 1).float()
    objectness = binary_cross_entropy_with_logits(
        all_logits[sampled], positive[sampled].to(all_logits), reduction="sum"
    )
    boxes = smooth_l1(all_deltas[positive], targets[positive], beta).sum(-1)
    if convention.rpn_normalizer == "batch":
        return objectness / (batch_size * images), boxes.sum() / (batch_size * images)
    number = number_of(sampled.sum(), labels)
    if convention.rpn_normalizer == "sampled":
        return objectness / number, boxes.sum() / number
    of_image = sampled.sum(1, keepdim=True).clamp(min=1).expand_as(labels)[positive]
    if len(logits) > 1:
        number = batch_size * images
    return objectness / number, (boxes / of_image).sum() / images


def box_losses(logits: Tensor, deltas: Tensor, classes: Tensor, targets: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the losses of classes and boxes, both divided by the number of rows.

    Args:
        logits: (n, K + 1), background last.
        deltas: (n, 4K), or (n, 4) for boxes that do not depend on the class.
        classes: (n,) int64; K is background.
        targets: Deltas (n, 4) of rows with an object; others may hold any value.
        beta: Of `smooth_l1`.
    """
    number, rows = number_of(len(classes), logits), (classes < logits.shape[1] - 1).nonzero()[:, 0]
    predicted = deltas.float().unflatten(1, (-1, 4))[rows, _channel(deltas.shape[1] // 4, classes[rows])]
    boxes = smooth_l1(predicted, targets[rows], beta).sum()
    return cross_entropy(logits.float(), classes, reduction="sum") / number, boxes / number


def accuracy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is that of their class, from 0 to 1."""
    return (logits.argmax(1) == classes).float().mean()


def mask_loss(logits: Tensor, classes: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross entropy of masks (n, K, M, M), of the channel of each row's class.

    Args:
        logits: (n, K, M, M), or (n, 1, M, M) for masks that do not depend on the class.
        classes: (n,) int64, below K.
        targets: (n, M, M), from 0 to 1.
    """
    rows = torch.arange(len(classes), device=classes.device)
    chosen, number = logits[rows, _channel(logits.shape[1], classes)].float(), number_of(targets.numel(), logits)
    return binary_cross_entropy_with_logits(chosen, targets.float(), reduction="sum") / number


def mask_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the probabilities (n, M, M) of the class of each row, of logits (n, K, M, M) or (n, 1, M, M)."""
    rows = torch.arange(classes.shape[0], device=classes.device)
    return logits[rows, _channel(logits.shape[1], classes)].float().sigmoid()


def _channel(channels: int, classes: Tensor) -> Tensor:
    return classes if channels > 1 else torch.zeros_like(classes)
