"""The soft Dice loss that practitioners add to cross-entropy where classes are rare.

Sudre, Li, Vercauteren, Ourselin and Cardoso, Generalised Dice Overlap as a Deep Learning Loss Function for Highly
Unbalanced Segmentations, 2017; over the whole batch ("batch Dice") as in Isensee et al., nnU-Net, 2021.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from segplug_heads.losses.region import RegionLoss


class SoftDiceLoss(RegionLoss):
    """The mean over the classes of one minus the batch's Dice coefficient; arguments are those of `RegionLoss`.

    Each class counts the same, however few its pixels are, and classes absent from the batch do not count.
    `DiceLoss` is MMSegmentation's: per image and all classes together, where rare classes hardly count.
    """

    usual_name: ClassVar[str] = "loss_dice"

    def overlap(self, both: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * both, predicted + truth
