"""PolyLoss: cross-entropy with another first coefficient of its expansion in powers of 1 - p.

Leng et al., PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions, 2022
(https://arxiv.org/abs/2204.12511).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative
from segkernel.labels import Task
from segkernel.nn import ClassWeight, PixelLoss, class_factors, mean_over_ranks, read_class_weight, reduce_loss
from segplug_heads.losses.region import one_hot_truth


class PolyLoss(PixelLoss):
    """Logits (N, K, H, W) against class ids (N, H, W): Poly-1, the mean over the pixels that count.

    A pixel's loss is (1 - p)^gamma (-log p) + epsilon (1 - p)^(gamma + 1), with p the probability of the truth.

    Args:
        epsilon: Added to the first coefficient, 1; -1 and more.
        gamma: Focusing parameter; 0 is Poly-1 cross-entropy, above it Poly-1 focal loss.
        use_sigmoid: An independent sigmoid per class, the mean over the classes; a single channel is a binary map.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        task: ``binary`` and ``multilabel`` mean ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        gamma: NonNegative = 0.0,
        use_sigmoid: bool = False,
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_poly",
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.epsilon, self.gamma, self.loss_weight = epsilon, gamma, loss_weight
        self.use_sigmoid = use_sigmoid or task in ("binary", "multilabel")
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces the number that count."""
        loss = self._per_class(logits, target, ignore_index)
        if weight is not None:
            loss = loss * (weight if loss.ndim == weight.ndim else weight.unsqueeze(1))
        count = (target != ignore_index).sum() * (loss.numel() // target.numel())
        divisor = mean_over_ranks(count) if avg_factor is None else avg_factor
        return self.loss_weight * reduce_loss(loss, "mean", divisor)

    def per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        loss = self._per_class(logits, target, ignore_index)
        return loss.mean(1) if loss.ndim == logits.ndim else loss

    def _per_class(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Return (N, H, W), with sigmoids (N, K, H, W), 0 where ignored."""
        if self.use_sigmoid or logits.shape[1] == 1:
            truth, counted = one_hot_truth(logits, target, None, ignore_index)
            truth = truth * counted
            loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * counted
            return self._poly(loss) * class_factors(self.class_weight, logits).view(1, -1, 1, 1)
        loss = F.cross_entropy(logits, target.long(), reduction="none", ignore_index=ignore_index)
        factors = class_factors(self.class_weight, logits)
        return self._poly(loss) * factors[target.long() * (target != ignore_index)]

    def _poly(self, cross_entropy: Tensor) -> Tensor:
        # The clamp keeps the gradient of a fractional gamma finite at p = 1.
        error = (1 - (-cross_entropy).exp()).clamp_min(1e-12)
        return error**self.gamma * (cross_entropy + self.epsilon * (1 - (-cross_entropy).exp()))
