"""The Dice loss: one minus the overlap of prediction and truth.

Milletari, Navab and Ahmadi, V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation, 2016.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from segkernel.annotations import LabelId, NonNegative
from segkernel.interfaces.model import Loss
from segkernel.labels import Task
from segkernel.nn import reduce_loss


class DiceLoss(Loss):
    """Dice loss per image, over all classes and pixels together.

    Args:
        use_sigmoid: An independent sigmoid per class, or a softmax over them.
        activate: False where they are probabilities already.
        reduction: ``mean`` over the images, ``sum`` or ``none``.
        naive_dice: The denominator sums values, not their squares.
        loss_weight: Factor of the result.
        ignore_index: A class whose channel does not count; None for none.
        eps: Keeps the denominator from 0.
        drop_ignored: Leave ignored pixels out of the denominator, too. MMSegmentation, whose numbers are the default,
            counts what is predicted there as wrong.
        loss_name: Name in the dict of losses.
        task: ``binary`` and ``multilabel`` mean ``use_sigmoid``; a config's ``data.task`` sets it for all losses.
    """

    conformance_exceptions: ClassVar[dict[str, str]] = {
        "ignored-pixels": "MMSegmentation keeps ignored pixels in the denominator; drop_ignored leaves them out",
        "all-ignored": "MMSegmentation counts all that is predicted in an unlabelled batch as wrong: a loss near 1",
    }

    def __init__(
        self,
        use_sigmoid: bool = True,
        activate: bool = True,
        reduction: Literal["mean", "sum", "none"] = "mean",
        naive_dice: bool = False,
        loss_weight: NonNegative = 1.0,
        ignore_index: LabelId | None = 255,
        eps: NonNegative = 1e-3,
        loss_name: str = "loss_dice",
        drop_ignored: bool = False,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        self.use_sigmoid = use_sigmoid or task in ("binary", "multilabel")
        self.activate, self.naive_dice = activate, naive_dice
        self.reduction, self.loss_weight, self.eps = reduction, loss_weight, eps
        self.ignore_class, self.drop_ignored = ignore_index, drop_ignored
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
        """Return the loss of ``logits`` (N, K, ...) against class ids (N, ...), or against probabilities (N, K, ...).

        Of binary targets, whole numbers (N, K, ...), those that are ignored never count.

        ``weight`` counts images, (N,), or pixels, (N, ...).
        """
        predicted = self._probabilities(logits)
        given = target.shape == logits.shape
        target_onehot = target.to(logits.dtype) if given else _one_hot(target, logits)
        labelled: Tensor | float = 1.0
        if (given and not target.is_floating_point()) or (self.drop_ignored and not given):
            valid = target != ignore_index
            every = valid if given else valid.unsqueeze(1)
            predicted, target_onehot = predicted * every, target_onehot * every if given else target_onehot
            labelled = valid.flatten(1).any(1)  # an image without labels does not contribute
        per_pixel = weight is not None and weight.ndim > 1
        pixels = weight.unsqueeze(1).expand_as(logits) if per_pixel else torch.ones_like(logits)  # type: ignore[union-attr]
        counted = (self._counted(x).flatten(1) for x in (predicted, target_onehot, pixels))
        loss = labelled * (1 - self._overlap(*counted))
        if weight is not None and not per_pixel:
            loss = loss * weight
        return self.loss_weight * reduce_loss(loss, self.reduction, avg_factor)

    def _probabilities(self, logits: Tensor) -> Tensor:
        if not self.activate:
            return logits
        if self.use_sigmoid:
            return logits.sigmoid()
        return logits if logits.shape[1] == 1 else logits.softmax(1)

    def _counted(self, x: Tensor) -> Tensor:
        """Return (N, K, ...) without the channel of the ignored class."""
        if self.ignore_class is None or not 0 <= self.ignore_class < x.shape[1]:
            return x
        return torch.cat([x[:, : self.ignore_class], x[:, self.ignore_class + 1 :]], 1)

    def _overlap(self, predicted: Tensor, target_onehot: Tensor, weight: Tensor) -> Tensor:
        """Return the Dice coefficient of each row of two (N, L), whose entries count ``weight``."""
        both = (predicted * target_onehot * weight).sum(1)
        if self.naive_dice:
            return (2 * both + self.eps) / (((predicted + target_onehot) * weight).sum(1) + self.eps)
        # V-Net's form, with squares. As in mmdetection, each sum of squares has its eps and the numerator has none.
        return 2 * both / (((predicted.square() + target_onehot.square()) * weight).sum(1) + 2 * self.eps)


def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
    """Return (N, K, ...) of 0 and 1; all 0 where the label is not a class."""
    classes = torch.arange(logits.shape[1], device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    return (target.unsqueeze(1) == classes).to(logits.dtype)
