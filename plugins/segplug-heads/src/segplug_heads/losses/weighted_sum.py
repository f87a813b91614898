"""Several losses under one name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor, nn

from segkernel.annotations import NonNegative
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Loss
from segkernel.nn import StridedLogits


class WeightedSum(Loss):
    """The weighted sum of losses, logged as one number; `loss_decode` as a list logs each by its name instead.

    Args:
        losses: The terms; each is called with the same logits and labels.
        weights: Factor of each; 1 for None.
        loss_name: Name in the dict of losses.
    """

    at_stride: ClassVar[bool] = True
    conformance: ClassVar = {"losses": [{"type": "CrossEntropyLoss"}, {"type": "JaccardLoss"}], "weights": [1.0, 0.5]}

    def __init__(
        self, losses: Sequence[Loss], weights: Sequence[NonNegative] | None = None, loss_name: str = "loss_sum"
    ) -> None:
        super().__init__()
        if weights is not None and len(weights) != len(losses):
            raise ConfigError(Problem(f"{len(weights)} weights for {len(losses)} losses", "weights"))
        self.losses = nn.ModuleList(losses)
        self.weights = [1.0] * len(losses) if weights is None else list(weights)
        self.use_sigmoid = all(getattr(loss, "use_sigmoid", False) for loss in losses)
        self.name = loss_name

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
        align_corners: bool = False,
    ) -> Tensor:
        """Return the sum; the arguments go to every term, logits enlarged where it wants them so."""
        strided = StridedLogits(logits, target.shape[-2:], align_corners)
        options = {"weight": weight, "ignore_index": ignore_index, "avg_factor": avg_factor}
        terms = [
            factor * strided.loss(cast(Loss, loss), target, **options)
            for factor, loss in zip(self.weights, self.losses, strict=True)
        ]
        return sum(terms[1:], terms[0])
