"""The Tversky loss: Dice with missed and false pixels weighted apart.

Salehi, Erdogmus and Gholipour, Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep
Networks, 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import LabelId, NonNegative
from segkernel.interfaces.model import Loss
from segkernel.nn import ClassWeight, class_factors, read_class_weight


class TverskyLoss(Loss):
    """Logits (N, K, H, W) against class ids (N, H, W): the mean over images and classes.

    Args:
        smooth: Added above and below, so that an absent class has the loss 0.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        ignore_index: The label that does not count, and the class that is left out if it is one; the head's for None.
            Labels beyond the last class count as the last.
        alpha: Weight of false positives.
        beta: Weight of false negatives; 0.5 and 0.5 is Dice, 1 and 1 is Jaccard.
        loss_name: Name in the dict of losses.
    """

    def __init__(
        self,
        smooth: NonNegative = 1.0,
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        ignore_index: LabelId | None = None,
        alpha: NonNegative = 0.3,
        beta: NonNegative = 0.7,
        loss_name: str = "loss_tversky",
    ) -> None:
        super().__init__()
        self.smooth, self.alpha, self.beta, self.ignore_index = smooth, alpha, beta, ignore_index
        self.loss_weight = loss_weight
        self.class_weight = read_class_weight(class_weight)
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces the number of images."""
        ignored = ignore_index if self.ignore_index is None else self.ignore_index
        classes = logits.shape[1]
        counted = (target != ignored).to(logits.dtype) * (1 if weight is None else weight)
        truth = F.one_hot(target.long().clamp(0, classes - 1), classes).movedim(-1, 1).to(logits.dtype)
        losses = self._per_class(logits.softmax(1).flatten(2), truth.flatten(2), counted.flatten(1).unsqueeze(1))
        factors = class_factors(self.class_weight, logits) * (torch.arange(classes, device=logits.device) != ignored)
        total = (losses * factors).sum() / classes  # the ignored class counts here, as in MMSegmentation
        return self.loss_weight * total / (len(logits) if avg_factor is None else avg_factor)

    def _per_class(self, predicted: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
        """Return (N, K) for (N, K, L)."""
        right = (predicted * truth * counted).sum(2)
        false = (predicted * (1 - truth) * counted).sum(2)
        missed = ((1 - predicted) * truth * counted).sum(2)
        return 1 - (right + self.smooth) / (right + self.alpha * false + self.beta * missed + self.smooth)
