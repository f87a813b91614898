"""Losses of queries: each predicts a class and a mask, and learns the object it is matched with.

Carion et al., End-to-End Object Detection with Transformers (DETR), 2020. Unlike the losses of label maps they take
rows, no pixel of which is ignored, and targets may be between 0 and 1, as interpolation at a point gives them.
They mean what those of the same short name in mmdetection do.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Loss
from segkernel.nn import ClassWeight, class_factors, mean_over_ranks, read_class_weight, reduce_loss
from segplug_heads.losses.dice_loss import DiceLoss

Reduction = Literal["mean", "sum", "none"]


class QueryCrossEntropyLoss(Loss):
    """Cross-entropy of class logits (M, K) against ids (M,), or of single logits (M,) against probabilities (M,).

    Args:
        use_sigmoid: An independent sigmoid for each logit; else one softmax over K classes.
        use_mask: Kept for configs that name it; must be false.
        reduction: ``mean``, ``sum`` or ``none``.
        class_weight: One number per class, or a .npy or .json file of them; with ``use_sigmoid`` its positive weight.
        ignore_index: The class id that does not count; the caller's for None.
        loss_weight: Factor of the result.
        avg_non_ignore: The mean leaves out what does not count.
        loss_name: Name in a dict of losses.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        use_mask: bool = False,
        reduction: Reduction = "mean",
        class_weight: ClassWeight = None,
        ignore_index: int | None = None,
        loss_weight: NonNegative = 1.0,
        avg_non_ignore: bool = False,
        loss_name: str = "loss_ce",
    ) -> None:
        super().__init__()
        if use_mask:
            raise ConfigError(Problem("queries have one mask each: there is no channel to select", "use_mask"))
        self.use_sigmoid, self.reduction, self.loss_weight = use_sigmoid, reduction, loss_weight
        self.class_weight = read_class_weight(class_weight)
        self.ignore_index, self.avg_non_ignore = ignore_index, avg_non_ignore
        self.name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """Return the loss; ``weight`` has the target's shape, ``avg_factor`` is what ``mean`` divides by."""
        ignore_index = ignore_index if self.ignore_index is None else self.ignore_index
        valid = target != ignore_index
        loss = self._binary(logits, target, valid) if self.use_sigmoid else self._categorical(logits, target, valid)
        if weight is not None:
            loss = loss * (weight if weight.ndim == loss.ndim else weight.unsqueeze(1))
        if avg_factor is None and self.avg_non_ignore and self.reduction == "mean":
            # A sigmoid per class has K entries for each id, all of which count, as in mmdetection.
            avg_factor = mean_over_ranks(valid.sum()) * (loss.numel() // valid.numel())
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def _categorical(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        weight = None if self.class_weight is None else class_factors(self.class_weight, logits)
        return F.cross_entropy(logits, (target * valid).long(), weight, reduction="none") * valid

    def _binary(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        weight = None if self.class_weight is None else logits.new_tensor(self.class_weight)
        target = target * valid
        if logits.ndim > target.ndim:
            target = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1)
            valid = valid.unsqueeze(1)
            # pos_weight is broadcast from the last dimension: move the classes to dimension 1.
            weight = weight if weight is None else weight.view(-1, *[1] * (logits.ndim - 2))
        target = target.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="none")
        return loss * valid


class QueryFocalLoss(Loss):
    """Focal loss of logits (M, K) against ids (M,): a sigmoid per class; the id K is "no object".

    Lin et al., Focal Loss for Dense Object Detection, 2017.

    Args:
        use_sigmoid: Must be true.
        gamma: Focusing parameter; 0 gives cross-entropy, weighted by alpha. 2 is the paper's.
        alpha: Positive weight; the negative one is 1 - alpha.
        reduction: ``mean``, ``sum`` or ``none``.
        loss_weight: Factor of the result.
        activated: The input is probabilities already.
        loss_name: Name in a dict of losses.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: NonNegative = 2.0,
        alpha: NonNegative = 0.25,
        reduction: Reduction = "mean",
        loss_weight: NonNegative = 1.0,
        activated: bool = False,
        loss_name: str = "loss_focal",
    ) -> None:
        super().__init__()
        if not use_sigmoid:
            raise ConfigError(Problem("the focal loss of queries is one of sigmoids", "use_sigmoid"))
        self.gamma, self.alpha, self.activated = gamma, alpha, activated
        self.reduction, self.loss_weight = reduction, loss_weight
        self.name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: Tensor | float | None = None,
    ) -> Tensor:
        """Return the loss; ``weight`` has the target's shape, ``avg_factor`` is what ``mean`` divides by."""
        classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
        target_onehot = (target.unsqueeze(1) == classes).to(logits.dtype)
        loss = self._entropy(logits, target_onehot)
        probability = logits if self.activated else logits.sigmoid()
        p_error = (1 - probability) * target_onehot + probability * (1 - target_onehot)
        loss = loss * (self.alpha * target_onehot + (1 - self.alpha) * (1 - target_onehot)) * p_error.pow(self.gamma)
        loss = loss * (target != ignore_index).unsqueeze(1)
        if weight is not None:
            loss = loss * weight.unsqueeze(1)
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def _entropy(self, logits: Tensor, target_onehot: Tensor) -> Tensor:
        if self.activated:
            return F.binary_cross_entropy(logits, target_onehot, reduction="none")
        return F.binary_cross_entropy_with_logits(logits, target_onehot, reduction="none")


class QueryDiceLoss(DiceLoss):
    """One minus the overlap of masks (M, ...) with theirs, a mean over the M.

    Args:
        use_sigmoid: Must be true.
        activate: False where the input is probabilities already.
        reduction: ``mean``, ``sum`` or ``none``.
        naive_dice: The denominator sums values, not their squares.
        loss_weight: Factor of the result.
        eps: Keeps the denominator from 0.
        loss_name: Name in a dict of losses.
    """

    fixed_arguments: ClassVar = {"ignore_index": None, "drop_ignored": False}

    conformance_exceptions: ClassVar[dict[str, str]] = {
        "ignored-pixels": "the mask of an object has no ignored pixels",
        "all-ignored": "the mask of an object has no ignored pixels",
    }

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: Reduction = "mean",
        naive_dice: bool = False,
        loss_weight: NonNegative = 1.0,
        eps: NonNegative = 1e-3,
        loss_name: str = "loss_dice",
    ) -> None:
        if not use_sigmoid:
            raise ConfigError(Problem("the Dice loss of queries is one of sigmoids", "use_sigmoid"))
        super().__init__(
            use_sigmoid=True,
            activate=activate,
            reduction=reduction,
            naive_dice=naive_dice,
            loss_weight=loss_weight,
            ignore_index=None,
            eps=eps,
            loss_name=loss_name,
        )
