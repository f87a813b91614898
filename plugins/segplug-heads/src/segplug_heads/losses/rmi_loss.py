"""The region mutual information loss: neighbouring pixels of prediction and truth depend on each other alike.

Zhao, Wang, Yang and Cai, Region Mutual Information Loss for Semantic Segmentation, 2019
(https://arxiv.org/abs/1910.12037).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative, Positive, PositiveInt
from segkernel.interfaces.model import Loss
from segkernel.labels import Task
from segplug_heads.losses.region import one_hot_truth


class RMILoss(Loss):
    """A lower bound of minus the mutual information of regions, summed over the classes, the mean over the images.

    The authors add binary cross-entropy, half and half. Every class has an independent sigmoid.

    Args:
        radius: Side of a region in pixels of the pooled maps.
        pool_stride: Side of the average pooling before it.
        eps: Added to the diagonal of the covariance.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        task: Without effect, accepted as of other losses.
    """

    use_sigmoid = True
    conformance_exceptions: ClassVar[dict[str, str]] = {"pixel-weights": "a weight of 0 leaves a pixel out of regions"}

    def __init__(
        self,
        radius: PositiveInt = 3,
        pool_stride: PositiveInt = 4,
        eps: Positive = 5e-4,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_rmi",
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.radius, self.pool_stride, self.eps, self.loss_weight = radius, pool_stride, eps, loss_weight
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
        """Return the loss; ``weight`` (N, H, W) leaves out pixels that have 0, ``avg_factor`` replaces the number of
        images."""
        truth, counted = one_hot_truth(logits, target, weight, ignore_index)
        counted = (counted > 0).to(logits.dtype)
        predicted = logits.sigmoid() * counted + 1e-6
        regions = [self._regions(x) for x in (truth * counted, predicted)]
        loss = self._bound(*regions) * (counted.flatten(1).sum(1) > 0)
        return self.loss_weight * loss.sum() / (len(logits) if avg_factor is None else avg_factor)

    def _regions(self, x: Tensor) -> Tensor:
        """Return the centred regions of pooled maps, (N, K, radius^2, L), in double precision for the inverse."""
        side = min(self.pool_stride, x.shape[2], x.shape[3])
        x = F.avg_pool2d(x, side)
        pixels = self.radius**2
        padding = [max(0, self.radius - size) for size in (x.shape[3], x.shape[2])]
        x = F.pad(x, (0, padding[0], 0, padding[1]))
        regions = F.unfold(x, self.radius).unflatten(1, (x.shape[1], pixels)).double()
        return regions - regions.mean(3, keepdim=True)

    def _bound(self, truth: Tensor, predicted: Tensor) -> Tensor:
        """Return half the log determinant of the truth's covariance, given the prediction, (N,), equation 13."""
        eye = self.eps * torch.eye(truth.shape[2], device=truth.device, dtype=truth.dtype)
        of_truth, of_predicted = (x @ x.transpose(2, 3) for x in (truth, predicted))
        between = truth @ predicted.transpose(2, 3)
        explained = between @ torch.linalg.solve(of_predicted + eye, between.transpose(2, 3))
        factor = torch.linalg.cholesky(of_truth - explained + eye)
        half_log_det = factor.diagonal(dim1=2, dim2=3).clamp_min(1e-8).log().sum(2)
        return (half_log_det / self.radius**2).sum(1).float()
