"""A whole model, for architectures that are not a backbone with a decode head."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import PixelClasses, Segmentor
from segkernel.labels import IGNORE
from segkernel.nn import ConvModule, resize
from segkernel.sample import Targets


class MyModelSegmentor(Segmentor):
    """Convolutions at half resolution: images (N, in_channels, H, W) to logits (N, num_classes, H / 2, W / 2).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        channels: Channels of the hidden layers.
        num_convs: Number of hidden layers.
    """

    def __init__(
        self,
        num_classes: PositiveInt,
        in_channels: PositiveInt = 3,
        channels: PositiveInt = 32,
        num_convs: PositiveInt = 3,
    ) -> None:
        super().__init__()
        stem = ConvModule(in_channels, channels, 3, stride=2, padding=1, norm_cfg={"type": "BN"})
        convs = (ConvModule(channels, channels, 3, padding=1, norm_cfg={"type": "BN"}) for _ in range(num_convs - 1))
        self.convs = nn.Sequential(stem, *convs)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        self.outputs = {"seg": PixelClasses(num_classes, num_classes)}
        self.test_cfg = {"mode": "whole"}

    def forward(self, images: Tensor) -> Tensor:
        return self.conv_seg(self.convs(images))

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        labels = targets["seg"]
        logits = resize(self(images), labels.shape[-2:])
        total = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return {"loss_ce": total / (labels != IGNORE).sum().clamp(min=1)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self(images)}
