"""The focal loss: cross-entropy in which easy pixels count little.

Lin et al., Focal Loss for Dense Object Detection, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.labels import Task
from segkernel.nn import ClassWeight, PixelLoss, class_factors, mean_over_ranks, read_class_weight, reduce_loss


class FocalLoss(PixelLoss):
    """Logits (N, K, H, W) against class ids (N, H, W), or against probabilities (N, K, H, W) with ``use_sigmoid``.

    With ``use_sigmoid`` every class has an independent sigmoid, and the mean is over all pixels and classes, ignored
    ones included; a single channel is a binary map of two classes. Without, it is the focal form of the softmax
    cross-entropy, and the mean is over the pixels that count.

    Args:
        use_sigmoid: A sigmoid per class, or one softmax over them.
        gamma: Focusing parameter; 0 gives cross-entropy. 2 is the paper's.
        alpha: Positive weight, the negative one being 1 - alpha, or one number per class; both are 1 for None. With
            softmax a plain factor, or one per class.
        reduction: ``mean``, ``sum`` or ``none``.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        task: ``binary`` and ``multilabel`` mean ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
        avg_non_ignore: With a sigmoid, too, the mean excludes ignored pixels.
        normalized: Divide by the sum of the focal terms of all pixels, with sigmoids that of each class.
        reduced_threshold: Probability of the truth below which a pixel has its full cross-entropy (reduced focal loss,
            Sergievskiy and Ponamarev, 2019); None is the focal loss.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: NonNegative = 2.0,
        alpha: NonNegative | Sequence[NonNegative] | None = 0.5,
        reduction: Literal["mean", "sum", "none"] = "mean",
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_focal",
        task: Task | None = None,
        avg_non_ignore: bool = False,
        normalized: bool = False,
        reduced_threshold: Probability | None = None,
    ) -> None:
        super().__init__()
        self.avg_non_ignore, self.normalized, self.reduced_threshold = avg_non_ignore, normalized, reduced_threshold
        if gamma < 0:
            raise ConfigError(Problem(f"{gamma} is negative: hard pixels would count less", "gamma"))
        self.use_sigmoid, self.gamma, self.alpha = use_sigmoid or task in ("binary", "multilabel"), gamma, alpha
        self.class_weight = read_class_weight(class_weight)
        self.reduction, self.loss_weight = reduction, loss_weight
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
        loss = (self._sigmoid if self.use_sigmoid else self._softmax)(logits, target, ignore_index)
        if weight is not None:
            loss = loss * (weight if loss.ndim == weight.ndim else weight.unsqueeze(1))
        if avg_factor is None and self.reduction == "mean" and (self.avg_non_ignore or not self.use_sigmoid):
            count = (target != ignore_index).sum() * (loss.numel() // target.numel())
            avg_factor = mean_over_ranks(count)  # type: ignore[assignment]
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def per_pixel(self, logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        if self.use_sigmoid:
            return self._sigmoid(logits, target, ignore_index).mean(1)
        return self._softmax(logits, target, ignore_index)

    def _sigmoid(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Return (N, K, H, W)."""
        if target.shape == logits.shape:
            valid = (target != ignore_index).to(logits.dtype)
            target_onehot = target.to(logits.dtype) * valid
        else:
            valid = (target != ignore_index).unsqueeze(1).to(logits.dtype)
            first = 1 if logits.shape[1] == 1 else 0  # the one channel of two classes is that of class 1
            classes = torch.arange(first, first + logits.shape[1], device=logits.device)
            target_onehot = (target.unsqueeze(1) == classes.view(1, -1, *[1] * (target.ndim - 1))).to(logits.dtype)
        probability = logits.sigmoid()
        p_error = (1 - probability) * target_onehot + probability * (1 - target_onehot)
        loss = F.binary_cross_entropy_with_logits(logits, target_onehot, reduction="none")
        loss = loss * self._focal_term(p_error, valid)
        if self.alpha is not None:
            alpha = self._factors(logits, "alpha")
            loss = loss * (alpha * target_onehot + (1 - alpha) * (1 - target_onehot))
        return loss * self._factors(logits, "class_weight")

    def _softmax(self, logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """Return (N, H, W)."""
        loss = F.cross_entropy(logits, target.long(), reduction="none", ignore_index=ignore_index)
        # exp(-loss) is p_t; the clamp keeps the gradient of a fractional gamma finite at p_t = 1.
        valid = target != ignore_index
        loss = loss * self._focal_term((1 - torch.exp(-loss)).clamp_min(1e-12), valid.to(loss.dtype))
        factors = (self._factors(logits, "alpha") * self._factors(logits, "class_weight")).flatten()
        return loss * factors[target.long() * valid] * valid

    def _focal_term(self, p_error: Tensor, valid: Tensor) -> Tensor:
        """Return the factor of the cross-entropy, (N, K, ...) or (N, ...), 0 where a pixel does not count."""
        term = p_error.pow(self.gamma)
        if self.reduced_threshold is not None:
            easy = (p_error / self.reduced_threshold).pow(self.gamma)
            term = torch.where(1 - p_error < self.reduced_threshold, torch.ones_like(easy), easy)
        term = term * valid
        if not self.normalized:
            return term
        # Each class has its own sum, as each is a problem of its own.
        over = [0, *range(2, term.ndim)] if self.use_sigmoid else list(range(term.ndim))
        return term / term.sum(over, keepdim=True).clamp_min(1e-6)

    def _factors(self, logits: Tensor, name: str) -> Tensor:
        """Return a number per class that multiplies (N, K, ...)."""
        values = 1.0 if (value := getattr(self, name)) is None and name == "alpha" else value
        values = [values] * logits.shape[1] if isinstance(values, (int, float)) else values
        return class_factors(values, logits, name).view(1, -1, *[1] * (logits.ndim - 2))
