"""The generalised Dice loss: one overlap of all classes, in which each counts by the inverse of its size.

Sudre, Li, Vercauteren, Ourselin and Cardoso, Generalised Dice Overlap as a Deep Learning Loss Function for Highly
Unbalanced Segmentations, 2017 (https://arxiv.org/abs/1707.03237).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from segplug_heads.losses.region import RegionArguments, RegionLoss


class GeneralizedDiceLoss(RegionLoss):
    """One minus twice the weighted overlap of the classes, divided by their weighted sizes, over the batch.

    Args:
        size_weight: Weight of a class: one by its number of pixels, ``square`` (the paper's) or ``simple``, or
            ``uniform``. Classes absent from the labels do not count.
    """

    usual_name: ClassVar[str] = "loss_gdice"
    conformance_exceptions: ClassVar[dict[str, str]] = {"avg-factor": "all classes have one value"}

    def __init__(
        self, size_weight: Literal["square", "simple", "uniform"] = "square", **kwargs: Unpack[RegionArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.size_weight = size_weight

    def overlap(self, both: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        power = {"square": 2, "simple": 1, "uniform": 0}[self.size_weight]
        weights = self._factors(truth > 0, both[None]) * (truth > 0) / truth.clamp_min(1) ** power
        return 2 * (weights * both).sum(), (weights * (predicted + truth)).sum()

    def combine(self, both: Tensor, predicted: Tensor, labelled: Tensor, avg_factor: float | None) -> Tensor:
        above, below = (x + self.smooth for x in self.overlap(both, predicted, labelled))
        overlap = above / below.clamp_min(torch.finfo(below.dtype).tiny)
        loss = -overlap.clamp_min(self.eps).log() if self.log_loss else 1 - overlap
        return loss * (labelled.sum() > 0)
