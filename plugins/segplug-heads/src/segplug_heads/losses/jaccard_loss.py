"""The Jaccard loss: one minus the soft intersection over union.

Rahman and Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation, 2016.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from segplug_heads.losses.region import RegionLoss


class JaccardLoss(RegionLoss):
    """The mean over the classes of one minus the batch's IoU; arguments are those of `RegionLoss`."""

    usual_name: ClassVar[str] = "loss_jaccard"

    def overlap(self, both: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return both, predicted + truth - both
