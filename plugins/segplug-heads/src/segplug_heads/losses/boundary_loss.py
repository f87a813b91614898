"""The border loss of PIDNet: binary cross-entropy in which the few border pixels weigh as much as all the others.

Xu et al., PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers, 2023.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative
from segkernel.interfaces.model import Loss
from segkernel.nn import reduce_loss


class BoundaryLoss(Loss):
    """Logits (N, 1, H, W) against a border map (N, H, W) of 0 and 1; the mean is over all pixels of the batch.

    Args:
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
    """

    conformance_inputs: ClassVar = {"num_classes": 2, "out_channels": 1}

    def __init__(self, loss_weight: NonNegative = 1.0, loss_name: str = "loss_boundary") -> None:
        super().__init__()
        self.loss_weight = loss_weight
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` is the divisor of the sum."""
        valid = target != ignore_index
        border, other = valid & (target == 1), valid & (target == 0)
        count = (border | other).sum().clamp(min=1)
        # HED's class balance (Xie and Tu, 2015): each of the two classes is weighted by the share of the other.
        balance = torch.where(border, other.sum() / count, border.sum() / count) * (border | other)
        is_border = border.to(logits.dtype)
        loss = balance * F.binary_cross_entropy_with_logits(logits.squeeze(1), is_border, reduction="none")
        if weight is not None:
            loss = loss * weight
        return self.loss_weight * reduce_loss(loss, "mean", avg_factor)
