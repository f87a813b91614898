"""The Hausdorff distance loss: errors count by the square of their distance from the borders.

Karimi and Salcudean, Reducing the Hausdorff Distance in Medical Image Segmentation with Convolutional Neural
Networks, 2019.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from segkernel.annotations import NonNegative
from segkernel.interfaces.model import Loss
from segkernel.nn import ClassWeight, class_factors, read_class_weight, reduce_loss


class HuasdorffDisstanceLoss(Loss):
    """Logits (N, K, H, W) against class ids (N, H, W); class 0 is the background. (The spelling is MMSegmentation's.)

    Args:
        reduction: Kept for configs that name it: the result is one number in any case.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        ignore_index: The label that is taken for background; the head's for None.
        loss_name: Name in the dict of losses.
        per_class: Compare every class with its own region. MMSegmentation, whose numbers are the default, compares
            each with the whole foreground, which is the same for two classes.
    """

    conformance_exceptions: ClassVar[dict[str, str]] = {
        "ignored-pixels": "MMSegmentation takes ignored pixels for background; a pixel weight of 0 leaves them out",
        "pixel-weights": "the border that a pixel is compared with may lie where the weight is 0",
        "all-ignored": "MMSegmentation takes an unlabelled batch for background: whatever else is predicted is wrong",
    }

    def __init__(
        self,
        reduction: Literal["mean", "sum", "none"] = "mean",
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        ignore_index: int | None = None,
        loss_name: str = "loss_huasdorff",
        per_class: bool = False,
    ) -> None:
        super().__init__()
        self.reduction, self.loss_weight, self.ignore_index = reduction, loss_weight, ignore_index
        self.class_weight = read_class_weight(class_weight)
        self.per_class = per_class
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
        """Return the loss; ``weight`` (N, H, W) counts pixels, ``avg_factor`` replaces their number."""
        factors = class_factors(self.class_weight, logits)
        ignored = ignore_index if self.ignore_index is None else self.ignore_index
        probabilities = logits.softmax(1)
        target = target * (target != ignored)
        best = probabilities.argmax(1)
        total = logits.sum() * 0
        for index in range(1, len(factors)):
            truth = (target == index) if self.per_class else target
            predicted = (best == index) if self.per_class else best
            # Distance transforms to the power alpha = 2, Karimi and Salcudean's choice, of prediction and truth.
            reach = (_depth(predicted).square() + _depth(truth).square()).to(probabilities.dtype)
            errors = (probabilities[:, index] - truth.to(probabilities.dtype)).square() * reach
            value = reduce_loss(errors if weight is None else errors * weight, "mean", avg_factor)
            total = total + value * factors[index]
        return self.loss_weight * total / len(factors)


@torch.no_grad()
def _depth(regions: Tensor) -> Tensor:
    """Return (N, H, W): distance in pixels of each non-zero pixel from the nearest 0; 0 if there is no 0."""
    import cv2

    masks = (regions != 0).cpu().numpy().astype(np.uint8)
    depths = [cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) * (not mask.all()) for mask in masks]
    return torch.from_numpy(np.stack(depths)).to(regions.device)
