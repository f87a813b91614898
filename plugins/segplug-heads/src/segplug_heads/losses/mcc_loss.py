"""The loss on Matthews' correlation coefficient, which counts true negatives, too.

Abhishek and Hamarneh, Matthews Correlation Coefficient Loss for Deep Convolutional Networks: Application to Skin Lesion
Segmentation, 2021 (https://arxiv.org/abs/2010.13454).
"""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel.annotations import NonNegative, Positive
from segkernel.interfaces.model import Loss
from segkernel.labels import Task
from segplug_heads.losses.region import one_hot_truth


class MCCLoss(Loss):
    """One minus the batch's correlation of prediction and truth, the mean over the classes in the labels.

    One channel is a binary map of two classes, of which the second counts.

    Args:
        use_sigmoid: An independent sigmoid per class instead of a softmax over them.
        from_logits: Whether it is given logits; else values that stand for probabilities, as
            segmentation_models_pytorch takes them.
        eps: Added to the numbers of true and false positives and negatives.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        task: ``binary`` and ``multilabel`` mean ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
    """

    def __init__(
        self,
        use_sigmoid: bool = False,
        from_logits: bool = True,
        eps: Positive = 1e-5,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_mcc",
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.use_sigmoid = use_sigmoid or task in ("binary", "multilabel")
        self.from_logits, self.eps, self.loss_weight = from_logits, eps, loss_weight
        self.name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces the number of classes."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        predicted = logits
        if self.from_logits:
            predicted = logits.sigmoid() if self.use_sigmoid or logits.shape[1] == 1 else logits.softmax(1)
        truth, counted = one_hot_truth(logits, target, weight, ignore_index)
        positives, negatives = predicted * counted, (1 - predicted) * counted
        # Sums of products over millions of pixels exceed what single precision tells apart.
        sums = ((x * y).sum((0, 2, 3)).double() + self.eps for x in (positives, negatives) for y in (truth, 1 - truth))
        right_yes, false_yes, false_no, right_no = sums
        below = (right_yes + false_yes) * (right_yes + false_no) * (right_no + false_yes) * (right_no + false_no)
        correlation = (right_yes * right_no - false_yes * false_no) / below.sqrt()
        present = (truth * counted).sum((0, 2, 3)) > 0
        if logits.shape[1] == 1:
            present = counted.sum((0, 2, 3)) > 0
        divisor = present.sum().clamp_min(1) if avg_factor is None else avg_factor
        return (self.loss_weight * ((1 - correlation) * present).sum() / divisor).to(logits.dtype)
