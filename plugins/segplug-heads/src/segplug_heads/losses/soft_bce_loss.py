"""Binary cross-entropy of each class with smoothed labels.

Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016 (https://arxiv.org/abs/1512.00567).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative, Probability
from segkernel.nn import ClassWeight, PixelLoss, class_factors, mean_over_ranks, read_class_weight, reduce_loss
from segkernel.nn.losses import Reduction
from segplug_heads.losses.region import one_hot_truth


class SoftBCELoss(PixelLoss):
    """Logits (N, K, H, W) against class ids (N, H, W), or against 0 and 1 (N, K, H, W): a sigmoid per class.

    One channel is a binary map of two classes. The mean is over all pixels and classes, ignored ones included, unless
    ``avg_non_ignore``.

    Args:
        smooth_factor: 0 becomes this, and 1 becomes 1 minus this.
        reduction: ``mean``, ``sum`` or ``none``.
        class_weight: One number per class, the weight of its 1, or a .npy or .json file of them.
        avg_non_ignore: The mean excludes ignored pixels.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
    """

    use_sigmoid = True

    def __init__(
        self,
        smooth_factor: Probability = 0.0,
        reduction: Reduction = "mean",
        class_weight: ClassWeight = None,
        avg_non_ignore: bool = False,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_bce",
    ) -> None:
        super().__init__()
        self.smooth_factor, self.reduction, self.loss_weight = smooth_factor, reduction, loss_weight
        self.class_weight, self.avg_non_ignore = read_class_weight(class_weight), avg_non_ignore
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` is what ``mean`` divides by."""
        loss = self._per_class(logits, target, ignore_index)
        if weight is not None:
            loss = loss * weight.unsqueeze(1)
        if avg_factor is None and self.reduction == "mean" and self.avg_non_ignore:
            count = (target != ignore_index).sum() * (loss.numel() // target.numel())
            avg_factor = mean_over_ranks(count)  # type: ignore[assignment]
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        return self._per_class(logits, target, ignore_index).mean(1)

    def _per_class(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Return (N, K, H, W), 0 where ignored."""
        truth, counted = one_hot_truth(logits, target, None, ignore_index)
        truth = truth * counted
        soft = truth * (1 - self.smooth_factor) + (1 - truth) * self.smooth_factor
        positive = class_factors(self.class_weight, logits).view(1, -1, 1, 1)
        return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=positive, reduction="none") * counted
