"""The default loss, cross-entropy, the accuracy that heads log, and the calls of losses at their stride.

loss = CrossEntropyLoss(class_weight=[0.5, 2.0])
loss(logits, labels)            # (N, K, h, w) and (N, H, W) -> a scalar
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import FileName, NonNegative, Probability
from segkernel.errors import ConfigError, DataError, Problem
from segkernel.interfaces.model import Loss
from segkernel.labels import Task
from segkernel.nn.ranks import mean_over_ranks
from segkernel.nn.resize import upsample_logits
from segkernel.nn.upsampled import binary_cross_entropy, map_tiles, upsample_cross_entropy, upsample_topk

Reduction = Literal["mean", "sum", "none"]
ClassWeight = Sequence[NonNegative] | Literal["auto"] | FileName | None
"""One number per class, or a .npy or .json file of them; ``auto`` is computed from the labels before a run trains."""


class PixelLoss(Loss):
    """A loss that is a mean over pixels, so that a sampler can rank pixels by their loss."""

    def per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        """Return (N, H, W), 0 where ignored, for logits (N, K, H, W) at the size of the labels."""
        raise NotImplementedError


class StridedLogits:
    """Logits (N, K, h, w) of a head, passed to each loss at the size that it takes.

    Losses that are not ``at_stride`` share one upsampled copy, created when it is first needed.

    Args:
        small: The logits at the head's stride.
        size: Height and width of the labels.
        align_corners: How logits are upsampled.
    """

    def __init__(self, small: Tensor, size: Sequence[int], align_corners: bool = False) -> None:
        self.small, self.size, self.align_corners = small, size, align_corners
        self._full: Tensor | None = None

    @property
    def full(self) -> Tensor:
        """The logits at the size of the labels, (N, K, H, W)."""
        if self._full is None:
            self._full = upsample_logits(self.small, self.size, self.align_corners)
        return self._full

    @property
    def largest(self) -> Tensor:
        """The upsampled logits if a loss has needed them, else the small ones; for functions that take either."""
        return self.small if self._full is None else self._full

    def loss(self, loss: Loss, target: Tensor, **options: Any) -> Tensor:
        """Return ``loss`` of these logits against ``target``; ``options`` are its other keyword arguments."""
        if loss.at_stride:
            return loss(self.small, target, align_corners=self.align_corners, **options)
        return loss(self.full, target, **options)


def sum_by_name(values: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of the values of each name."""
    total: dict[str, Tensor] = {}
    for name, value in values:
        total[name] = total[name] + value if name in total else value
    return total


class CrossEntropyLoss(PixelLoss):
    """Cross-entropy of class ids, or of one sigmoid per class.

    The mean is over all pixels, ignored ones included, unless ``avg_non_ignore``; with ``class_weight`` it is weighted,
    where an ignored pixel has the weight of its class, or 1 if its label is not a class. In training, the mean is over
    the pixels and weights of all ranks.

    Args:
        use_sigmoid: An independent sigmoid per class; logits may then have one channel for two classes.
        use_mask: Logits (M, K, H, W) of M objects, targets (M, H, W) of 0 and 1, and ``weight`` the class id of each
            object (M,): the binary loss of that class's mask.
        reduction: ``mean``, ``sum`` or ``none``.
        class_weight: One number per class, or a .npy or .json file of them; with ``use_sigmoid`` its positive weight.
            For a single channel one positive weight, or the negative and the positive weight. ``auto`` is computed
            from the training labels before training.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        avg_non_ignore: The mean excludes ignored pixels.
        label_smoothing: Share of a label that is spread over all classes (Szegedy et al., 2016).
        task: ``binary`` and ``multilabel`` imply ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
    """

    at_stride: ClassVar[bool] = True

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: Reduction = "mean",
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_ce",
        avg_non_ignore: bool = False,
        label_smoothing: Probability = 0.0,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        use_sigmoid = use_sigmoid or task in ("binary", "multilabel")
        if use_sigmoid and use_mask:
            raise ConfigError(Problem("use_sigmoid and use_mask exclude each other", "use_mask"))
        if label_smoothing and (use_sigmoid or use_mask):
            raise ConfigError(Problem("is for a softmax only", "label_smoothing"))
        self.use_sigmoid, self.use_mask, self.reduction = use_sigmoid, use_mask, reduction
        self.class_weight = read_class_weight(class_weight)
        self.loss_weight, self.avg_non_ignore, self.label_smoothing = loss_weight, avg_non_ignore, label_smoothing
        self.name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
        align_corners: bool = False,
    ) -> Tensor:
        """Return the loss of ``logits`` (N, K, h, w), (N, K, P) or (N, K) against ``target`` without the K.

        Args:
            logits: Maps at any stride are upsampled to the target's (H, W).
            target: Class ids. With ``use_sigmoid`` it may have the K: 1 or 0, or a probability, for each class.
            weight: Weight of each pixel, of the target's shape.
            ignore_index: The ignored label.
            avg_factor: Divisor of ``mean``.
            align_corners: How logits are upsampled.
        """
        size, by_class = target.shape[-2:], weight is not None and weight.ndim == logits.ndim
        if self.use_mask:
            return self.loss_weight * self._mask_loss(upsample_logits(logits, size, align_corners), target, weight)
        if not (self.use_sigmoid and target.is_floating_point()):  # a probability may be the target of a sigmoid
            target = target.long()
        if self.use_sigmoid and (self.reduction == "none" or by_class):
            logits = upsample_logits(logits, size, align_corners)
            loss = binary_cross_entropy(logits, target, self._class_weight(logits), ignore_index)
            loss = loss if by_class or loss.shape[1] > 1 else loss.view_as(target)
        else:
            loss = self._per_pixel(logits, target, ignore_index, align_corners)
        if weight is not None:
            loss = loss * (weight if weight.ndim == loss.ndim else weight.unsqueeze(1))
        if avg_factor is None and self.reduction == "mean":
            count = self._count(logits, target, ignore_index)
            avg_factor = None if count is None else mean_over_ranks(count)  # type: ignore[assignment]
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        loss = self._per_pixel(logits, target.long(), ignore_index)
        return loss / logits.shape[1] if self.use_sigmoid else loss

    def _per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool = False) -> Tensor:
        """Return (N, H, W), with ``use_sigmoid`` the sum over the classes."""
        options: Any = {"ignore_index": ignore_index, "align_corners": align_corners, "sigmoid": self.use_sigmoid}
        options |= {"class_weight": self._class_weight(logits), "label_smoothing": self.label_smoothing}
        return upsample_cross_entropy(logits, target, **options)

    def _count(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor | None:
        """Return the divisor of the mean; None is the number of pixels."""
        counted = torch.ones_like(target, dtype=torch.bool)
        if self.avg_non_ignore:
            counted = (target >= 0) & (target != ignore_index)
        if self.use_sigmoid:
            return counted.sum() * (logits.shape[1] if target.ndim < logits.ndim else 1)
        weight = self._class_weight(logits)
        if weight is None:
            return counted.sum() if self.avg_non_ignore else None
        is_class = (target >= 0) & (target < len(weight))
        return (torch.where(is_class, weight[target * is_class], 1.0) * counted).sum()

    def _mask_loss(self, logits: Tensor, target: Tensor, classes: Tensor | None) -> Tensor:
        if classes is None:
            raise ConfigError(Problem("use_mask needs the class of each object as `weight`", "use_mask"))
        chosen = logits[torch.arange(len(logits), device=logits.device), classes.long()]
        weight = self._class_weight(logits)
        return F.binary_cross_entropy_with_logits(chosen, target.to(chosen.dtype), weight)

    def _class_weight(self, logits: Tensor) -> Tensor | None:
        """Return one weight per class (K,), with ``use_sigmoid`` its negative and positive weight (2, K)."""
        if self.class_weight is None:
            return None
        if not self.use_sigmoid:
            return class_factors(self.class_weight, logits)
        if logits.shape[1] == 1 and len(self.class_weight) == 2:
            return logits.new_tensor(self.class_weight).view(2, 1)
        one = len(self.class_weight) == 1
        positive = logits.new_tensor(self.class_weight) if one else class_factors(self.class_weight, logits)
        return torch.stack([torch.ones_like(positive), positive]).expand(2, logits.shape[1])

    def extra_repr(self) -> str:
        return f"name={self.name}, loss_weight={self.loss_weight}, use_sigmoid={self.use_sigmoid}"


def reduce_loss(loss: Tensor, reduction: Reduction, avg_factor: Tensor | float | None = None) -> Tensor:
    """Return ``loss`` unchanged, summed, or summed and divided by ``avg_factor``, by default the number of elements."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        if avg_factor is not None:
            raise ConfigError(Problem("avg_factor is for the mean only, not for a sum", "reduction"))
        return loss.sum()
    if avg_factor is None:
        return loss.mean()
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)  # 0, not NaN, when nothing counts


def read_class_weight(class_weight: ClassWeight) -> list[float] | Literal["auto"] | None:
    """Return one number per class from a sequence or from a .npy or .json file; ``auto`` is returned unchanged.

    Raises:
        ConfigError: One is negative or not finite, or all are 0.
        DataError: The file is missing or invalid.
    """
    if class_weight is None or class_weight == "auto":
        return class_weight  # type: ignore[return-value]
    try:
        values: Any = _read_numbers(Path(class_weight)) if isinstance(class_weight, str | Path) else class_weight
        numbers = [float(value) for value in values]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"not a list of class weights: {error}", str(class_weight)) from error
    if not (all(0 <= number < float("inf") for number in numbers) and any(numbers)):
        raise ConfigError(Problem(f"class weights must be 0 or more, and not all 0, got {numbers}", "class_weight"))
    return numbers


def _read_numbers(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else np.load(path, allow_pickle=False)


def class_factors(
    values: Sequence[float] | Literal["auto"] | None, logits: Tensor, name: str = "class_weight"
) -> Tensor:
    """Return one number per class of ``logits`` (N, K, ...), 1 for None.

    Raises:
        ConfigError: The argument called ``name`` has another number of them, or is still ``auto``.
    """
    if values == "auto":
        raise ConfigError(Problem("auto is only computed in a training run, from the labels", name))
    if values is None:
        return logits.new_ones(logits.shape[1])
    if len(values) != logits.shape[1]:
        raise ConfigError(Problem(f"{len(values)} numbers for {logits.shape[1]} classes", name))
    return logits.new_tensor(values)


def accuracy(
    logits: Tensor,
    target: Tensor,
    topk: int | Sequence[int] = 1,
    thresh: float | None = None,
    ignore_index: int | None = None,
    align_corners: bool = False,
) -> Tensor | list[Tensor]:
    """Return the percentage of ``target`` (N, ...) that is among the ``topk`` of ``logits`` (N, K, ...).

    Args:
        logits: Maps at any stride are upsampled to the target's (H, W).
        target: Class ids.
        topk: Number of largest logits to consider; a sequence returns a list.
        thresh: A logit must be above it to count.
        ignore_index: The ignored label.
        align_corners: How logits are upsampled.
    """
    ranks = (topk,) if isinstance(topk, int) else tuple(topk)
    if max(ranks) > logits.shape[1]:
        raise ConfigError(Problem(f"top {max(ranks)} of {logits.shape[1]} classes", "topk"))
    labels = upsample_topk(logits.detach(), target.shape[-2:], max(ranks), thresh, align_corners)
    counted = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    right = (labels == target.unsqueeze(1)) & counted.unsqueeze(1)
    eps = torch.finfo(torch.float32).eps
    shares = [(right[:, :k].sum().float() + eps) * (100.0 / (counted.sum() + eps)) for k in ranks]
    return shares[0] if isinstance(topk, int) else shares


def binary_accuracy(
    logits: Tensor, target: Tensor, threshold: float, ignore_index: int = 255, align_corners: bool = False
) -> Tensor:
    """Return the percentage of ``target`` (N, K, H, W), 1 and 0, that the sigmoid of ``logits`` (N, K, h, w) predicts.

    ``threshold`` is the probability above which 1 is predicted.
    """
    counted, logits = target != ignore_index, logits.detach()
    right = map_tiles(lambda x, y: (x.sigmoid() > threshold) == (y == 1), logits, target, align_corners)
    return 100.0 * (right & counted).sum() / counted.sum().clamp(min=1)
