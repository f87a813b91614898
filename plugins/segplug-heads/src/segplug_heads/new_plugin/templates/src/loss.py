"""A loss: the focal loss of softmax probabilities (Lin et al., 2017, https://arxiv.org/abs/1708.02002)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from segkernel.annotations import NonNegative
from segkernel.interfaces.model import Loss


class MyModelLoss(Loss):
    """Mean of (1 - p)^gamma times the cross-entropy, p being the probability of the true class.

    Args:
        gamma: Exponent; 0 is the cross-entropy.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses; it contains ``loss``.
    """

    def __init__(self, gamma: NonNegative = 2.0, loss_weight: NonNegative = 1.0, loss_name: str = "loss_focal") -> None:
        super().__init__()
        self.gamma, self.loss_weight, self.name = gamma, loss_weight, loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return a scalar for logits (N, K, H, W) and class ids (N, H, W)."""
        entropy = cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
        loss = (1 - (-entropy).exp()) ** self.gamma * entropy
        if weight is not None:
            loss = loss * weight
        count = (target != ignore_index).sum().clamp(min=1) if avg_factor is None else avg_factor
        return self.loss_weight * loss.sum() / count
