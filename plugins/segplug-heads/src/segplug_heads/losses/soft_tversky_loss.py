"""The Tversky loss over a whole batch, and its focal form.

Salehi, Erdogmus and Gholipour, Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks,
2017 (https://arxiv.org/abs/1706.05721); Abraham and Khan, A Novel Focal Tversky Loss Function with Improved Attention
U-Net for Lesion Segmentation, 2019 (https://arxiv.org/abs/1810.07842).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, Positive
from segplug_heads.losses.region import RegionArguments, RegionLoss


class SoftTverskyLoss(RegionLoss):
    """The mean over the classes of one minus the batch's Tversky index. `TverskyLoss` is MMSegmentation's, per image.

    Args:
        alpha: Weight of false positives.
        beta: Weight of false negatives; 0.5 and 0.5 is Dice, 1 and 1 is Jaccard.
        gamma: Exponent of the mean; below 1 it is the focal form.
    """

    usual_name: ClassVar[str] = "loss_tversky"

    def __init__(
        self,
        alpha: NonNegative = 0.5,
        beta: NonNegative = 0.5,
        gamma: Positive = 1.0,
        **kwargs: Unpack[RegionArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def overlap(self, both: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return both, both + self.alpha * (predicted - both) + self.beta * (truth - both)

    def combine(self, both: Tensor, predicted: Tensor, labelled: Tensor, avg_factor: float | None) -> Tensor:
        mean = super().combine(both, predicted, labelled, avg_factor)
        # The clamp keeps the gradient finite where no pixel counts.
        return mean if self.gamma == 1 else mean.clamp_min(self.eps**2) ** self.gamma * (mean != 0)
