"""The scale-invariant logarithmic loss of depth.

Eigen, Puhrsch and Fergus, Depth Map Prediction from a Single Image using a Multi-Scale Deep Network, 2014.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from segkernel.annotations import NonNegative
from segkernel.interfaces.model import Loss
from segkernel.nn import reduce_loss

_DEPTH = "input and target are depths"


class SiLogLoss(Loss):
    """Depths (N, 1, H, W) against depths (N, H, W) or (N, 1, H, W), all in one unit; values up to 0 are not measured.

    Args:
        loss_weight: Factor of the result.
        eps: Depths up to this do not count, and are taken for it.
        reduction: ``mean`` or ``sum`` over the images, or ``none``.
        loss_name: Name in the dict of losses.
    """

    conformance_exceptions: ClassVar[dict[str, str]] = {
        "scalar": _DEPTH, "ignored-pixels": _DEPTH, "ignore-index": _DEPTH, "pixel-weights": _DEPTH,
        "loss-weight": _DEPTH, "all-ignored": _DEPTH, "gradient": _DEPTH, "avg-factor": _DEPTH
    }  # fmt: skip

    def __init__(
        self,
        loss_weight: NonNegative = 1.0,
        eps: NonNegative = 1e-6,
        reduction: Literal["mean", "sum", "none"] = "mean",
        loss_name: str = "loss_silog",
    ) -> None:
        super().__init__()
        self.loss_weight, self.eps, self.reduction = loss_weight, eps, reduction
        self.name = loss_name

    def forward(
        self,
        depths: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return the loss; ``weight`` counts images, (N,)."""
        predicted, truth = depths.flatten(1), target.flatten(1)
        valid = truth > self.eps
        gap = (truth.clamp_min(self.eps).log() - predicted.clamp_min(self.eps).log()) * valid
        count = valid.sum(1).clamp_min(1)
        # Eigen et al., 2014: half the squared mean is subtracted, lambda = 0.5; 1 would ignore the scale altogether.
        variance = gap.square().sum(1) / count - 0.5 * (gap.sum(1) / count).square()
        # The root has no slope at 0, where an image without any measurement is.
        loss = torch.where(variance > 0, variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt(), variance * 0)
        if weight is not None:
            loss = loss * weight
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)
