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
from segkernel.nn.upsampled import in_tiles, upsample_cross_entropy, upsample_max, worth_tiles

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
        if self.use_sigmoid and self.reduction != "none" and not by_class and worth_tiles(logits, size):
            loss, count = self._binary_in_tiles(logits, target, ignore_index, align_corners)
        elif self.use_sigmoid:
            loss, count = self._binary(upsample_logits(logits, size, align_corners), target, ignore_index)
        else:
            loss, count = self._categorical(logits, target, ignore_index, align_corners)
        if weight is not None:
            loss = loss * (weight if weight.ndim == loss.ndim else weight.unsqueeze(1))
        if avg_factor is None and self.reduction == "mean" and count is not None:
            avg_factor = mean_over_ranks(count)  # type: ignore[assignment]
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        loss, _ = (self._binary if self.use_sigmoid else self._categorical)(logits, target.long(), ignore_index)
        return loss.mean(1) if loss.ndim > target.ndim else loss

    def _categorical(
        self, logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the unreduced loss and the divisor of its mean; None is the number of elements."""
        weight = self._class_weight(logits)
        loss = upsample_cross_entropy(
            logits,
            target,
            class_weight=weight,
            ignore_index=ignore_index,
            label_smoothing=self.label_smoothing,
            align_corners=align_corners,
        )
        ignored = target == ignore_index
        if weight is None:
            return loss, (~ignored).sum() if self.avg_non_ignore else None
        is_class = (target >= 0) & (target < len(weight))
        counts = torch.where(is_class, weight[target * is_class], 1.0)
        return loss, (counts * ~ignored if self.avg_non_ignore else counts).sum()

    def _binary_in_tiles(
        self, logits: Tensor, target: Tensor, ignore_index: int, align_corners: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As `_binary` of the upsampled logits; the loss (N, H, W) is its sum over classes."""

        def of_rows(full: Tensor, rows: slice) -> Tensor:
            loss, _ = self._binary(full, target[..., rows, :], ignore_index)
            return loss.sum(1) if loss.ndim == full.ndim else loss

        counted = (target >= 0) & (target != ignore_index) if self.avg_non_ignore else torch.ones_like(target)
        count = counted.sum() * (logits.shape[1] if target.ndim < logits.ndim else 1)
        return in_tiles(of_rows, logits, target.shape[-2:], align_corners), count

    def _binary(self, logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor | None]:
        """As `_categorical`, for a sigmoid per class: the unreduced loss is (N, K, H, W), or (N, H, W) for one."""
        valid = (target >= 0) & (target != ignore_index)
        truth = target * valid
        pair = self.class_weight if logits.ndim > 1 and logits.shape[1] == 1 else None
        pair = pair if isinstance(pair, list) and len(pair) == 2 else None  # negative and positive weight
        weight = None if pair else self._class_weight(logits)
        weight = weight if weight is None else weight.view(-1, *[1] * (logits.ndim - 2))
        if logits.ndim == target.ndim or logits.shape[1] == 1:
            logits = logits.squeeze(1) if logits.ndim > target.ndim else logits
        else:
            truth = F.one_hot(truth.long(), logits.shape[1]).movedim(-1, 1)
            valid = valid.unsqueeze(1).expand_as(logits)
        loss = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), pos_weight=weight, reduction="none")
        loss = loss * torch.where(truth == 1, pair[1], pair[0]) if pair else loss
        return loss * valid, valid.sum() if self.avg_non_ignore else None

    def _mask_loss(self, logits: Tensor, target: Tensor, classes: Tensor | None) -> Tensor:
        if classes is None:
            raise ConfigError(Problem("use_mask needs the class of each object as `weight`", "use_mask"))
        chosen = logits[torch.arange(len(logits), device=logits.device), classes.long()]
        weight = self._class_weight(logits)
        return F.binary_cross_entropy_with_logits(chosen, target.to(chosen.dtype), weight)

    def _class_weight(self, logits: Tensor) -> Tensor | None:
        if self.class_weight is None:
            return None
        if self.use_sigmoid and len(self.class_weight) == 1:
            return logits.new_tensor(self.class_weight)
        return class_factors(self.class_weight, logits)

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
    size = target.shape[-2:]
    if max(ranks) == 1:  # ten times faster than topk
        best, labels = (each.unsqueeze(1) for each in upsample_max(logits, size, align_corners))
    else:
        best, labels = upsample_logits(logits.detach(), size, align_corners).topk(max(ranks), dim=1)
    counted = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    right = (labels == target.unsqueeze(1)) & counted.unsqueeze(1)
    if thresh is not None:
        right = right & (best > thresh)
    eps = torch.finfo(torch.float32).eps
    shares = [(right[:, :k].sum().float() + eps) * (100.0 / (counted.sum() + eps)) for k in ranks]
    return shares[0] if isinstance(topk, int) else shares


def binary_accuracy(
    logits: Tensor, target: Tensor, threshold: float, ignore_index: int = 255, align_corners: bool = False
) -> Tensor:
    """Return the percentage of ``target`` (N, K, H, W), 1 and 0, that the sigmoid of ``logits`` (N, K, h, w) predicts.

    ``threshold`` is the probability above which 1 is predicted.
    """
    logits = upsample_logits(logits.detach(), target.shape[-2:], align_corners)
    counted = target != ignore_index
    right = (logits.sigmoid() > threshold) == (target == 1)
    return 100.0 * (right & counted).sum() / counted.sum().clamp(min=1)
