"""The Kullback-Leibler divergence to a teacher's logits, for distillation.

Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import Positive
from segkernel.interfaces.model import Loss

_TEACHER = "the target is a teacher's logits, and there is a value per image"


class KLDivLoss(Loss):
    """Logits (N, K, ...) against a teacher's logits of the same shape -> (N,), or unreduced.

    Args:
        temperature: Both are divided by it; the result is multiplied by its square, which keeps the size of the
            gradient (Hinton et al., 2015).
        reduction: ``mean`` or ``sum`` over each image's values, or ``none``.
        loss_name: Name in the dict of losses.
        log_input: Compare logarithms of probabilities, which is the divergence. MMSegmentation, whose numbers are the
            default, hands the probabilities themselves to it.
    """

    conformance_exceptions: ClassVar[dict[str, str]] = {
        "scalar": _TEACHER, "ignored-pixels": _TEACHER, "ignore-index": _TEACHER, "pixel-weights": _TEACHER,
        "loss-weight": _TEACHER, "all-ignored": _TEACHER, "gradient": _TEACHER, "avg-factor": _TEACHER
    }  # fmt: skip

    def __init__(
        self,
        temperature: Positive = 1.0,
        reduction: Literal["mean", "sum", "none"] = "mean",
        loss_name: str = "loss_kld",
        log_input: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.reduction, self.log_input = temperature, reduction, log_input
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
        """Return the divergence; ``weight`` (N, ...) counts pixels."""
        ours = (F.log_softmax if self.log_input else F.softmax)(logits / self.temperature, dim=1)
        loss = F.kl_div(ours, F.softmax(target / self.temperature, dim=1), reduction="none") * self.temperature**2
        if weight is not None:
            loss = loss * weight.unsqueeze(1)
        if self.reduction == "none":
            return loss
        return loss.flatten(1).sum(1) if self.reduction == "sum" else loss.flatten(1).mean(1)
