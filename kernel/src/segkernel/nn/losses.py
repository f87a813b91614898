"""The default loss, cross-entropy, and the share of right pixels that heads log.

loss = CrossEntropyLoss(class_weight=[0.5, 2.0])
loss(scores, labels)            # (N, K, H, W) and (N, H, W) -> a scalar
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.errors import ConfigError, DataError, Problem
from segkernel.interfaces.model import Loss

Reduction = Literal["mean", "sum", "none"]
ClassWeight = Sequence[float] | str | None


class PixelLoss(Loss):
    """A loss that is a mean over pixels, so that a sampler can look at each pixel's share."""

    def per_pixel(self, scores: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        """Return (N, H, W), 0 where ignored."""
        raise NotImplementedError


class CrossEntropyLoss(PixelLoss):
    """Cross-entropy of class ids, or of one sigmoid per class.

    The mean is over all pixels, ignored ones included, unless ``avg_non_ignore``; with ``class_weight`` it is weighted,
    an ignored pixel counting as its class does, or as 1 when its label is no class.

    Args:
        use_sigmoid: Every class is a yes or no of its own; scores may then have one channel for two classes.
        use_mask: Scores (M, K, H, W) of M objects, targets (M, H, W) of 0 and 1, and ``weight`` the class id of each
            object (M,): the binary loss of that class's mask.
        reduction: ``mean``, ``sum`` or ``none``.
        class_weight: One number per class, or a .npy or .json file of them; with ``use_sigmoid`` the weight of a yes.
            Of a single channel one number, or the weights of no and yes.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        avg_non_ignore: The mean leaves out ignored pixels.
        label_smoothing: Share of a label that is spread over all classes (Szegedy et al., 2016).
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: Reduction = "mean",
        class_weight: ClassWeight = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_ce",
        avg_non_ignore: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if use_sigmoid and use_mask:
            raise ConfigError(Problem("use_sigmoid and use_mask exclude each other", "use_mask"))
        if label_smoothing and (use_sigmoid or use_mask):
            raise ConfigError(Problem("smooths the labels of a softmax only", "label_smoothing"))
        self.use_sigmoid, self.use_mask, self.reduction = use_sigmoid, use_mask, reduction
        self.class_weight = read_class_weight(class_weight)
        self.loss_weight, self.avg_non_ignore, self.label_smoothing = loss_weight, avg_non_ignore, label_smoothing
        self.name = loss_name

    def forward(
        self,
        scores: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return the loss of ``scores`` (N, K, H, W) or (N, K) against ``target`` without the K.

        With ``use_sigmoid``, a ``target`` with the K says yes (1) or no (0) for each.

        ``weight`` counts pixels and has the target's shape; ``avg_factor`` is what ``mean`` divides by.
        """
        if self.use_mask:
            return self.loss_weight * self._mask_loss(scores, target, weight)
        if not (self.use_sigmoid and target.is_floating_point()):  # shares of a yes are allowed
            target = target.long()
        loss, count = (self._binary if self.use_sigmoid else self._categorical)(scores, target, ignore_index)
        if weight is not None:
            loss = loss * (weight if weight.ndim == loss.ndim else weight.unsqueeze(1))
        if avg_factor is None and self.reduction == "mean":
            avg_factor = count  # type: ignore[assignment]
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def per_pixel(self, scores: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        loss, _ = (self._binary if self.use_sigmoid else self._categorical)(scores, target.long(), ignore_index)
        return loss.mean(1) if loss.ndim > target.ndim else loss

    def _categorical(self, scores: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor | None]:
        """Return the unreduced loss and what its mean divides by; None is the number of elements."""
        weight = self._class_weight(scores)
        smoothing = self.label_smoothing
        loss = F.cross_entropy(scores, target, weight, None, ignore_index, None, "none", smoothing)
        ignored = target == ignore_index
        if weight is None:
            return loss, (~ignored).sum() if self.avg_non_ignore else None
        is_class = (target >= 0) & (target < len(weight))
        counts = torch.where(is_class, weight[target * is_class], 1.0)
        return loss, (counts * ~ignored if self.avg_non_ignore else counts).sum()

    def _binary(self, scores: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor | None]:
        """As `_categorical`, for a sigmoid per class: the unreduced loss is (N, K, H, W), or (N, H, W) for one."""
        valid = (target >= 0) & (target != ignore_index)
        wanted = target * valid
        pair = self.class_weight if scores.ndim > 1 and scores.shape[1] == 1 else None
        pair = pair if pair and len(pair) == 2 else None  # of no and yes
        weight = None if pair else self._class_weight(scores)
        weight = weight if weight is None else weight.view(-1, *[1] * (scores.ndim - 2))
        if scores.ndim == target.ndim or scores.shape[1] == 1:
            scores = scores.squeeze(1) if scores.ndim > target.ndim else scores
        else:
            wanted = F.one_hot(wanted.long(), scores.shape[1]).movedim(-1, 1)
            valid = valid.unsqueeze(1).expand_as(scores)
        loss = F.binary_cross_entropy_with_logits(scores, wanted.to(scores.dtype), pos_weight=weight, reduction="none")
        loss = loss * torch.where(wanted == 1, pair[1], pair[0]) if pair else loss
        return loss * valid, valid.sum() if self.avg_non_ignore else None

    def _mask_loss(self, scores: Tensor, target: Tensor, classes: Tensor | None) -> Tensor:
        if classes is None:
            raise ConfigError(Problem("use_mask needs the class of each object as `weight`", "use_mask"))
        chosen = scores[torch.arange(len(scores), device=scores.device), classes.long()]
        weight = self._class_weight(scores)
        return F.binary_cross_entropy_with_logits(chosen, target.to(chosen.dtype), weight)

    def _class_weight(self, scores: Tensor) -> Tensor | None:
        if self.class_weight is None:
            return None
        if self.use_sigmoid and len(self.class_weight) == 1:
            return scores.new_tensor(self.class_weight)
        return class_factors(self.class_weight, scores)

    def extra_repr(self) -> str:
        return f"name={self.name}, loss_weight={self.loss_weight}, use_sigmoid={self.use_sigmoid}"


def reduce_loss(loss: Tensor, reduction: Reduction, avg_factor: Tensor | float | None = None) -> Tensor:
    """Return ``loss`` as it is, summed, or summed and divided by ``avg_factor``, by default the number of elements."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        if avg_factor is not None:
            raise ConfigError(Problem("avg_factor has a meaning for the mean only, not for a sum", "reduction"))
        return loss.sum()
    if avg_factor is None:
        return loss.mean()
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)  # 0, not NaN, when nothing counts


def read_class_weight(class_weight: ClassWeight) -> list[float] | None:
    """Return one number per class from a sequence or from a .npy or .json file.

    Raises:
        DataError: The file is missing, or holds something else.
    """
    if class_weight is None or not isinstance(class_weight, str):
        return None if class_weight is None else [float(value) for value in class_weight]
    try:
        text = class_weight.endswith(".json")
        values = json.loads(Path(class_weight).read_text()) if text else np.load(class_weight, allow_pickle=False)
        return [float(value) for value in values]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"no list of class weights: {error}", class_weight) from error


def class_factors(values: Sequence[float] | None, scores: Tensor, name: str = "class_weight") -> Tensor:
    """Return one number per class of ``scores`` (N, K, ...), 1 for None.

    Raises:
        ConfigError: The argument called ``name`` has another number of them.
    """
    if values is None:
        return scores.new_ones(scores.shape[1])
    if len(values) != scores.shape[1]:
        raise ConfigError(Problem(f"{len(values)} numbers for {scores.shape[1]} classes", name))
    return scores.new_tensor(values)


def accuracy(
    scores: Tensor,
    target: Tensor,
    topk: int | Sequence[int] = 1,
    thresh: float | None = None,
    ignore_index: int | None = None,
) -> Tensor | list[Tensor]:
    """Return the percentage of ``target`` (N, ...) that is among the best ``topk`` of ``scores`` (N, K, ...).

    Args:
        topk: How many of the best count; several give a list.
        thresh: A score must be above it to count.
        ignore_index: Targets left out.
    """
    ranks = (topk,) if isinstance(topk, int) else tuple(topk)
    if max(ranks) > scores.shape[1]:
        raise ConfigError(Problem(f"top {max(ranks)} of {scores.shape[1]} classes", "topk"))
    # The best one alone is found ten times faster than a ranking.
    best, labels = scores.max(1, keepdim=True) if max(ranks) == 1 else scores.topk(max(ranks), dim=1)
    right = labels == target.unsqueeze(1)
    if thresh is not None:
        right = right & (best > thresh)
    counted = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    right = right & counted.unsqueeze(1)
    eps = torch.finfo(torch.float32).eps
    shares = [(right[:, :k].sum().float() + eps) * (100.0 / (counted.sum() + eps)) for k in ranks]
    return shares[0] if isinstance(topk, int) else shares


def right_decisions(scores: Tensor, target: Tensor, threshold: float, ignore_index: int = 255) -> Tensor:
    """Return the percentage of yes and no in ``target`` that ``scores`` of the same shape decide rightly by sigmoid."""
    counted = target != ignore_index
    right = (scores.sigmoid() > threshold) == (target == 1)
    return 100.0 * (right & counted).sum() / counted.sum().clamp(min=1)
