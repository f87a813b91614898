"""A segmentor and its parts: a neck, a loss, an activation and a pixel sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from segkernel.interfaces.model import Features, Loss, Neck, PixelClasses, Segmentor
from segkernel.nn import PixelSampler, build_activation, resize
from segkernel.sample import Targets


class Snake(nn.Module):
    """The activation x + sin(x)^2."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return x + x.sin().square()


class ScaleNeck(Neck):
    """Multiply each map by a learned number.

    Args:
        maps: Number of maps.
    """

    conformance: ClassVar = {"maps": 2}
    conformance_inputs: ClassVar = {"features": [(8, 4), (16, 8)]}

    def __init__(self, maps: int = 1) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(maps))

    def forward(self, features: Features) -> tuple[Tensor, ...]:
        """Return maps of the same shapes."""
        return tuple(scale * value for scale, value in zip(self.scales, features, strict=True))


class BrierLoss(Loss):
    """Mean squared distance of probabilities from the one-hot labels (Brier, 1950).

    Args:
        loss_weight: Factor.
        loss_name: Name in the dict of losses.
    """

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "loss_brier") -> None:
        super().__init__()
        self.loss_weight, self.name = loss_weight, loss_name

    def forward(
        self,
        scores: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        avg_factor: float | None = None,
    ) -> Tensor:
        """Return a scalar from scores (N, K, H, W) and class ids (N, H, W)."""
        counted = target != ignore_index
        truth = one_hot(target * counted, scores.shape[1]).movedim(-1, 1)
        distance = (scores.softmax(1) - truth).square().sum(1) * counted
        if weight is not None:
            distance = distance * weight
        return self.loss_weight * distance.sum() / (avg_factor or counted.sum().clamp(min=1))


class EveryOtherPixel(PixelSampler):
    """Select the pixels of a checkerboard."""

    def sample(self, scores: Tensor, target: Tensor, losses: Sequence[Loss], ignore_index: int) -> Tensor:
        """Return weights of 0 and 1."""
        rows, columns = (torch.arange(length, device=target.device) for length in target.shape[-2:])
        return ((rows[:, None] + columns) % 2).expand_as(target).to(scores.dtype)


class OneConv(Segmentor):
    """Two convolutions with an activation between them.

    Args:
        num_classes: Number of classes K.
        loss: Training loss.
        neck: Applied to the feature map.
        sampler: Selects the pixels of the loss; None for all.
        act_cfg: Activation.
    """

    conformance: ClassVar = {"num_classes": 3, "loss": {"type": "segplug_sampler.model:BrierLoss"}}

    def __init__(
        self,
        num_classes: int,
        loss: Loss,
        neck: Neck | None = None,
        sampler: PixelSampler | None = None,
        act_cfg: dict[str, Any] = {"type": "ReLU"},  # noqa: B006  never changed
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.activation = build_activation(act_cfg)
        self.neck, self.sampler, self.criterion = neck, sampler, loss
        self.conv_seg = nn.Conv2d(8, num_classes, 1)
        self.outputs = {"seg": PixelClasses(num_classes, num_classes)}
        self.test_cfg = {"mode": "whole"}

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, K, H, W)."""
        features: Features = (self.activation(self.conv(images)),)
        return self.conv_seg((self.neck(features) if self.neck else features)[0])

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the loss."""
        labels = targets["seg"]
        scores = resize(self(images), size=labels.shape[-2:], mode="bilinear")
        weight = self.sampler.sample(scores, labels, [self.criterion], 255) if self.sampler else None
        return {self.criterion.name: self.criterion(scores, labels, weight=weight)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Return the scores of the output ``seg``."""
        return {"seg": self(images)}
