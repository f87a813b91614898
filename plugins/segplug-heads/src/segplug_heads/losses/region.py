"""Losses on the overlap of prediction and truth, class by class over a whole batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import TypedDict

from segkernel.annotations import NonNegative, NonNegativeInt, Positive
from segkernel.interfaces.model import Loss
from segkernel.labels import Task
from segkernel.nn import ClassWeight, class_factors, read_class_weight


class RegionArguments(TypedDict, total=False):
    """Arguments of `RegionLoss`."""

    classes: Literal["present", "all"] | Sequence[NonNegativeInt]
    smooth: NonNegative
    class_weight: ClassWeight
    loss_weight: NonNegative
    loss_name: str | None
    use_sigmoid: bool
    task: Task | None
    log_loss: bool
    divide_by: Literal["present", "chosen"]
    eps: Positive


class RegionLoss(Loss):
    """The mean over the classes of one minus their overlap in the batch; a subclass gives the ``overlap``.

    One channel is a binary map of two classes, of which the second counts.

    Args:
        classes: Classes averaged over: those ``present`` in the labels, ``all``, or these ids.
        smooth: Added to numerator and denominator, in pixels.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses; the subclass's ``usual_name`` for None.
        use_sigmoid: An independent sigmoid per class instead of a softmax over them.
        task: ``binary`` and ``multilabel`` mean ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
        log_loss: Minus the logarithm of the overlap instead of one minus it.
        divide_by: The mean is over the classes that count and have pixels, ``present``, or over all in ``classes``,
            ``chosen``, where absent ones count as 0, as in segmentation_models_pytorch.
        eps: Smallest denominator, and smallest overlap of which the logarithm is taken.
    """

    usual_name: ClassVar[str]

    def __init__(
        self,
        classes: Literal["present", "all"] | Sequence[NonNegativeInt] = "present",
        smooth: NonNegative = 0.0,
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        loss_name: str | None = None,
        use_sigmoid: bool = False,
        task: Task | None = None,
        log_loss: bool = False,
        divide_by: Literal["present", "chosen"] = "present",
        eps: Positive = 1e-7,
    ) -> None:
        super().__init__()
        self.log_loss, self.divide_by, self.eps = log_loss, divide_by, eps
        self.classes, self.smooth, self.loss_weight = classes, smooth, loss_weight
        self.class_weight = read_class_weight(class_weight)
        self.use_sigmoid = use_sigmoid or task in ("binary", "multilabel")
        self.name = loss_name or self.usual_name

    @abstractmethod
    def overlap(self, both: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return numerator and denominator of the overlap, (K,), from sums over pixels, (K,).

        Args:
            both: Of the products of probability and truth.
            predicted: Of the probabilities.
            truth: The labelled pixels of each class.
        """

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return the loss of ``logits`` (N, K, H, W) against class ids (N, H, W), or against 0 and 1 (N, K, H, W).

        ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces the number of classes.
        """
        # Sums over millions of pixels are not exact in half precision.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        single = logits.shape[1] == 1
        probabilities = logits.sigmoid() if self.use_sigmoid or single else logits.softmax(1)
        truth, counted = one_hot_truth(logits, target, weight, ignore_index)
        truth, probabilities = truth * counted, probabilities * counted
        both, predicted, labelled = (x.sum((0, 2, 3)) for x in (probabilities * truth, probabilities, truth))
        return self.loss_weight * self.combine(both, predicted, labelled, avg_factor)

    def combine(self, both: Tensor, predicted: Tensor, labelled: Tensor, avg_factor: float | None) -> Tensor:
        """Return the loss, a scalar, from the sums over pixels that `overlap` takes."""
        above, below = (x + self.smooth for x in self.overlap(both, predicted, labelled))
        present = labelled > 0
        factors = self._factors(present, both[None]) * (below > 0)
        counted = factors > 0
        if self.divide_by == "chosen":
            counted, factors = self._factors(torch.ones_like(present), both[None]) > 0, factors * present
        # A class without pixels has a denominator of 0: the clamp keeps its gradient finite, its factor is 0.
        overlap = above / below.clamp_min(self.eps)
        losses = -overlap.clamp_min(self.eps).log() if self.log_loss else 1 - overlap
        divisor = counted.sum().clamp_min(1) if avg_factor is None else avg_factor
        return (losses * factors).sum() / divisor

    def _factors(self, present: Tensor, logits: Tensor) -> Tensor:
        """Return the weight of each class in the mean, (K,)."""
        factors = class_factors(self.class_weight, logits)
        if self.classes == "all":
            return factors
        if self.classes == "present":
            return factors * present
        chosen = torch.tensor([index in self.classes for index in range(len(present))], device=logits.device)
        return factors * chosen


def one_hot_truth(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return 0 and 1 for each channel of the logits, and the weight of each pixel, (N, K or 1, H, W) each.

    Args:
        logits: (N, K, H, W); one channel is that of class 1 of two.
        target: Class ids (N, H, W), or 0 and 1 (N, K, H, W).
        weight: Weight of each pixel, (N, H, W).
        ignore_index: The ignored label, whose weight is 0.
    """
    single = logits.shape[1] == 1
    target = target if target.ndim == logits.ndim else target.unsqueeze(1)
    counted = (target != ignore_index).to(logits.dtype)
    if weight is not None:
        counted = counted * weight.unsqueeze(1)
    ids = torch.arange(logits.shape[1], device=logits.device) + single
    truth = target if target.shape == logits.shape and not single else target == ids.view(1, -1, 1, 1)
    return truth.to(logits.dtype), counted
