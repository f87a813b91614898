"""The Lovász loss: the convex extension of one minus IoU, so that IoU itself is optimised.

Berman, Rannen Triki and Blaschko, The Lovász-Softmax Loss, 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from segkernel.annotations import NonNegative, NonNegativeInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Loss
from segkernel.nn import ClassWeight, class_factors, read_class_weight, reduce_loss


class LovaszLoss(Loss):
    """Logits (N, K, H, W) against class ids (N, H, W); for ``binary`` (N, H, W) or one channel.

    Args:
        loss_type: ``multi_class`` works on the softmax, ``binary`` is the Lovász hinge. It also takes 0 and 1 for each
            channel, (N, K, H, W), all of which are one set of pixels.
        classes: Classes averaged over: those ``present`` in the labels, ``all``, or these ids.
        per_image: A value per image, reduced; else one value for the batch.
        reduction: ``mean``, ``sum`` or ``none``, over the images.
        class_weight: One number per class, or a .npy or .json file of them.
        loss_weight: Factor of the result.
        loss_name: Name in the dict of losses.
    """

    conformance_exceptions: ClassVar[dict[str, str]] = {
        "avg-factor": "one value for the batch has nothing to be divided by; with per_image it is what mean divides by"
    }

    def __init__(
        self,
        loss_type: Literal["multi_class", "binary"] = "multi_class",
        classes: Literal["present", "all"] | Sequence[NonNegativeInt] = "present",
        per_image: bool = False,
        reduction: Literal["mean", "sum", "none"] = "mean",
        class_weight: ClassWeight = None,
        loss_weight: NonNegative = 1.0,
        loss_name: str = "loss_lovasz",
    ) -> None:
        super().__init__()
        self.loss_type, self.classes, self.per_image = loss_type, classes, per_image
        self.reduction, self.loss_weight = reduction, loss_weight
        self.class_weight = read_class_weight(class_weight)
        self.name = loss_name
        self.use_sigmoid = loss_type == "binary"

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return the loss; ``weight`` (N, H, W) scales each pixel's error."""
        if self.loss_type == "binary" and target.ndim == 4:  # the channels of an image side by side
            weight = None if weight is None else weight.unsqueeze(1).expand_as(target).flatten(1, 2)
            logits, target = logits.flatten(1, 2), target.flatten(1, 2)
        predicted = logits if logits.ndim > target.ndim else logits.unsqueeze(1)
        if self.loss_type == "multi_class":
            predicted = predicted.softmax(1)
        elif predicted.shape[1] != 1:
            raise ConfigError(Problem(f"binary needs one channel, not {predicted.shape[1]}", "loss_type"))
        weight = torch.ones_like(target, dtype=predicted.dtype) if weight is None else weight
        parts = [slice(i, i + 1) for i in range(len(target))] if self.per_image else [slice(None)]
        values = [self._value(predicted[part], target[part], weight[part], ignore_index) for part in parts]
        if not self.per_image:
            return self.loss_weight * values[0]
        return self.loss_weight * reduce_loss(torch.stack(values), self.reduction, avg_factor)

    def _value(self, predicted: Tensor, target: Tensor, weight: Tensor, ignore_index: int) -> Tensor:
        """Return the loss of the pixels that count, of logits (n, 1, H, W), or probabilities (n, K, H, W)."""
        valid = target != ignore_index
        predicted, target, weight = predicted.movedim(1, -1)[valid], target[valid], weight[valid]
        if len(target) == 0:
            return predicted.sum()
        if self.loss_type == "binary":
            # The hinge max(1 - F y, 0) of logit F and y = -1 or 1: the errors of the Lovász hinge.
            errors = (1 - predicted[:, 0] * (2 * target.to(predicted.dtype) - 1)).relu() * weight
            return _lovasz(errors, target == 1)
        return self._multi_class(predicted, target, weight)

    def _multi_class(self, probabilities: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the mean over the classes, of probabilities (L, K) against ids (L,)."""
        factors = class_factors(self.class_weight, probabilities)
        values = []
        for index in range(probabilities.shape[1]) if isinstance(self.classes, str) else self.classes:
            truth = target == index
            if self.classes == "present" and not truth.any():
                continue
            errors = (truth.to(probabilities.dtype) - probabilities[:, index]).abs() * weight
            values.append(_lovasz(errors, truth) * factors[index])
        return torch.stack(values).mean() if values else probabilities.sum() * 0


def _lovasz(errors: Tensor, truth: Tensor) -> Tensor:
    """Return the Lovász extension of one minus IoU at the errors (L,) of a class that is there where ``truth``."""
    # Algorithm 1 of the paper: with errors in descending order, pixel i's is weighted by the rise of the Jaccard loss
    # when i joins the mispredicted pixels.
    ordered, order = errors.sort(descending=True)
    truth = truth[order].to(errors.dtype)
    overlap = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1 - truth).cumsum(0)
    steps = 1 - overlap / union
    return ordered @ torch.cat([steps[:1], steps[1:] - steps[:-1]])
