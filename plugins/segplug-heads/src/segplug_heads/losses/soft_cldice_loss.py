"""The soft centreline Dice loss: thin structures count by their skeletons, so that they stay connected.

Shit et al., clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation, 2021
(https://arxiv.org/abs/2003.07311).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segkernel.annotations import NonNegative, NonNegativeInt, Positive, PositiveInt
from segkernel.interfaces.model import Loss
from segkernel.labels import Task
from segplug_heads.losses.region import one_hot_truth


class SoftCLDiceLoss(Loss):
    """One minus the harmonic mean of the skeletons' precision and recall, over the batch, averaged over the classes.

    The authors add it to `SoftDiceLoss`. One channel is a binary map of two classes.

    Args:
        iterations: Erosions of the skeleton; half the width in pixels of the widest structure.
        classes: The classes that count; all but 0 for None.
        smooth: Added to numerators and denominators, in pixels.
        use_sigmoid: An independent sigmoid per class instead of a softmax over them; all classes count.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
        task: ``binary`` and ``multilabel`` mean ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
    """

    def __init__(
        self,
        iterations: PositiveInt = 3,
        classes: Sequence[NonNegativeInt] | None = None,
        smooth: Positive = 1.0,
        use_sigmoid: bool = False,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_cldice",
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.iterations, self.classes, self.smooth, self.loss_weight = iterations, classes, smooth, loss_weight
        self.use_sigmoid = use_sigmoid or task in ("binary", "multilabel")
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
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        truth, counted = one_hot_truth(logits, target, weight, ignore_index)
        chosen = slice(None)
        if self.use_sigmoid or logits.shape[1] == 1:
            predicted = logits.sigmoid()
        else:
            predicted = logits.softmax(1)
            chosen = slice(1, None) if self.classes is None else self.classes  # type: ignore[assignment]
        # Ignored pixels are taken out before the skeletons, or these would end in them.
        predicted, truth = (predicted * (counted > 0))[:, chosen], (truth * (counted > 0))[:, chosen]
        precision = self._share(soft_skeleton(predicted, self.iterations) * counted, truth)
        recall = self._share(soft_skeleton(truth, self.iterations) * counted, predicted)
        loss = 1 - 2 * precision * recall / (precision + recall)
        loss = loss * (counted.sum() > 0)
        return self.loss_weight * loss.sum() / (len(loss) if avg_factor is None else avg_factor)

    def _share(self, skeleton: Tensor, region: Tensor) -> Tensor:
        """Return the share of the skeleton inside the region, (K,)."""
        inside, whole = (skeleton * region).sum((0, 2, 3)), skeleton.sum((0, 2, 3))
        return (inside + self.smooth) / (whole + self.smooth)


def soft_skeleton(x: Tensor, iterations: int) -> Tensor:
    """Return the skeletons of maps (N, K, H, W) between 0 and 1, differentiable, by repeated erosion and opening."""
    skeleton = F.relu(x - _dilate(_erode(x)))
    for _ in range(iterations):
        x = _erode(x)
        ridge = F.relu(x - _dilate(_erode(x)))
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
    return skeleton


def _erode(x: Tensor) -> Tensor:
    """Return the minimum over a cross of 3x3 pixels."""
    rows, columns = -F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1))
    return torch.minimum(rows, columns)


def _dilate(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)
