"""The Jaccard loss: one minus the soft intersection over union.

Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation, 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segkernel.annotations import NonNegative, NonNegativeInt
from segkernel.interfaces.model import Loss
from segkernel.nn import ClassWeight, class_factors, read_class_weight


class JaccardLoss(Loss):
    """Logits (N, K, H, W) against class ids (N, H, W): the mean over the classes of one minus the batch's IoU.

    One channel is a binary map of two classes.

    Args:
        classes: Classes averaged over: those ``present`` in the labels, ``all``, or these ids.
        smooth: Added above and below.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
    """

    def __init__(
        self,
        classes: Literal["present", "all"] | Sequence[NonNegativeInt] = "present",
        smooth: NonNegative = 0.0,
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_jaccard",
    ) -> None:
        super().__init__()
        self.classes, self.smooth, self.loss_weight = classes, smooth, loss_weight
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces the number of classes."""
        probabilities = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
        ids = torch.arange(logits.shape[1], device=logits.device) + (logits.shape[1] == 1)
        counted = (target != ignore_index).to(logits.dtype) * (1 if weight is None else weight)
        truth = (target.unsqueeze(1) == ids.view(1, -1, 1, 1)).to(logits.dtype) * counted.unsqueeze(1)
        probabilities = probabilities * counted.unsqueeze(1)
        both = (probabilities * truth).sum((0, 2, 3))
        union = (probabilities + truth).sum((0, 2, 3)) - both
        # A class without pixels has a union of 0: the clamp keeps its gradient finite, and its factor below is 0.
        tiny = torch.finfo(logits.dtype).tiny
        losses = 1 - (both + self.smooth) / (union + self.smooth).clamp_min(tiny)
        factors = self._factors(truth.sum((0, 2, 3)) > 0, logits) * (union + self.smooth > 0)
        divisor = (factors > 0).sum().clamp_min(1) if avg_factor is None else avg_factor
        return self.loss_weight * (losses * factors).sum() / divisor

    def _factors(self, present: Tensor, logits: Tensor) -> Tensor:
        """Return what each class counts, (K,)."""
        factors = class_factors(self.class_weight, logits)
        if self.classes == "all":
            return factors
        if self.classes == "present":
            return factors * present
        chosen = torch.tensor([index in self.classes for index in range(len(present))], device=logits.device)
        return factors * chosen
