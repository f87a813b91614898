"""The unified focal loss: a focal cross-entropy and a focal Tversky loss of classes that are rare or not.

Yeung, Sala, Schönlieb and Rundo, Unified Focal loss: Generalising Dice and cross entropy-based losses to handle class
imbalanced medical image segmentation, 2022 (https://arxiv.org/abs/2102.04525).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from segkernel.annotations import LabelId, NonNegative, Probability
from segkernel.interfaces.model import Loss
from segplug_heads.losses.region import one_hot_truth


class UnifiedFocalLoss(Loss):
    """Logits (N, K, H, W) against class ids (N, H, W), over the batch; one channel is a binary map of two classes.

    Args:
        weight: Share of the cross-entropy, lambda of the paper; the rest is that of the Tversky loss.
        delta: Weight of rare classes in the cross-entropy, and of false negatives in the Tversky index.
        gamma: Suppression of easy background, and enhancement of rare classes, below 1.
        background: The class that is not rare.
        asymmetric: Background alone is suppressed in the cross-entropy, rare classes alone are enhanced in the Tversky
            loss; false treats all classes alike.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
    """

    conformance_exceptions: ClassVar[dict[str, str]] = {"avg-factor": "it divides the cross-entropy only"}

    def __init__(
        self,
        weight: Probability = 0.5,
        delta: Probability = 0.6,
        gamma: Probability = 0.5,
        background: LabelId = 0,
        asymmetric: bool = True,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_unified_focal",
    ) -> None:
        super().__init__()
        self.weight, self.delta, self.gamma, self.background = weight, delta, gamma, background
        self.asymmetric, self.loss_weight = asymmetric, loss_weight
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces the number that count."""
        if logits.shape[1] == 1:  # the softmax of (0, x) is the sigmoid of x
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        truth, counted = one_hot_truth(logits, target, weight, ignore_index)
        common = torch.arange(logits.shape[1], device=logits.device) == self.background
        pixels = (target != ignore_index).sum().clamp_min(1) if avg_factor is None else avg_factor
        entropy = self._cross_entropy(logits, truth * counted, common) / pixels
        tversky = self._tversky(logits.softmax(1) * counted, truth * counted, common)
        return self.loss_weight * (self.weight * entropy + (1 - self.weight) * tversky)

    def _cross_entropy(self, logits: Tensor, truth: Tensor, common: Tensor) -> Tensor:
        """Return the modified focal cross-entropy, equations 16 and 18, summed over the pixels."""
        log_p = logits.log_softmax(1)
        suppressed = common if self.asymmetric else torch.ones_like(common)
        # The clamp keeps the gradient of a fractional gamma finite at p = 1.
        focal = (1 - log_p.exp()).clamp_min(1e-6) ** self.gamma
        factors = torch.where(suppressed.view(1, -1, 1, 1), focal, torch.ones_like(focal))
        share = torch.where(common, 1 - self.delta, self.delta).view(1, -1, 1, 1)
        return -(share * factors * log_p * truth).sum()

    def _tversky(self, predicted: Tensor, truth: Tensor, common: Tensor) -> Tensor:
        """Return the modified focal Tversky loss, equations 17 and 19: the mean over the classes in the labels."""
        both, positives, labelled = (x.sum((0, 2, 3)) for x in (predicted * truth, predicted, truth))
        below = both + self.delta * (labelled - both) + (1 - self.delta) * (positives - both)
        loss = 1 - both / below.clamp_min(1e-7)
        enhanced = ~common if self.asymmetric else torch.ones_like(common)
        loss = torch.where(enhanced, loss.clamp_min(1e-6) ** (1 - self.gamma), loss)
        present = labelled > 0
        return (loss * present).sum() / present.sum().clamp_min(1)
