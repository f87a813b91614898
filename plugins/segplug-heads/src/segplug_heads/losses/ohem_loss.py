"""Cross-entropy of the hardest pixels only.

Shrivastava, Gupta and Girshick, Training Region-based Object Detectors with Online Hard Example Mining, 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative, NonNegativeInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Loss
from segkernel.nn import ClassWeight, class_factors, kth_of_valid, mean_over_ranks, read_class_weight, shares_batch


class OhemCrossEntropy(Loss):
    """Logits (N, K, H, W) against class ids (N, H, W): the mean cross-entropy of the pixels whose class is improbable.

    Args:
        ignore_label: A label that is ignored in addition to the head's ``ignore_index``.
        thres: Pixels whose true class is less probable than this count.
        min_kept: Pixels of the batch, of all ranks together in training, that count at least, the hardest ones.
        loss_weight: Factor of the result.
        class_weight: One number per class, or a .npy or .json file of them; the mean does not divide by them.
        loss_name: Name in the dict of losses.
    """

    def __init__(
        self,
        ignore_label: int = 255,
        thres: Probability = 0.7,
        min_kept: NonNegativeInt = 100000,
        loss_weight: NonNegative = 1.0,
        class_weight: ClassWeight = None,
        loss_name: str = "loss_ohem",
    ) -> None:
        super().__init__()
        if not 0 <= thres <= 1:
            raise ConfigError(Problem(f"{thres} is not a probability", "thres"))
        self.ignore_label, self.thres, self.min_kept = ignore_label, thres, max(1, min_kept)
        self.class_weight = read_class_weight(class_weight)
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
        target = target.long()
        valid = (target != ignore_index) & (target != self.ignore_label)
        target = torch.where(valid, target, 0)
        hard = self._hard(logits.detach(), target, valid)
        factors = None if self.class_weight is None else class_factors(self.class_weight, logits)
        loss = F.cross_entropy(logits, target, factors, reduction="none") * hard
        if weight is not None:
            loss = loss * weight
        return (
            self.loss_weight
            * loss.sum()
            / (mean_over_ranks(hard.sum()).clamp(min=1) if avg_factor is None else avg_factor)
        )

    def _hard(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return which pixels count, (N, H, W)."""
        of_truth = logits.float().softmax(1).gather(1, target.unsqueeze(1)).squeeze(1)
        of_truth = of_truth.masked_fill(~valid, 2.0)  # above any probability: sorted after the valid pixels
        limit = kth_of_valid(of_truth, valid, self.min_kept, shares_batch() and torch.is_grad_enabled())
        # Strictly less, as in the authors' code: ties at the limit can leave fewer than min_kept pixels.
        return valid & (of_truth < limit.clamp(min=self.thres))
