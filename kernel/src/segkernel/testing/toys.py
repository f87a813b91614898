"""Small components for testing others, for example ``{"type": "segkernel.testing.toys:ToyBackbone"}``."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from segkernel.interfaces.model import Backbone, Features, Head, PixelClasses, Segmentor
from segkernel.labels import IGNORE
from segkernel.nn import resize
from segkernel.sample import Batch, Targets


class ToyBackbone(Backbone):
    """Four maps at strides 4 to 32, from one convolution each.

    Args:
        in_channels: Channels of the images.
        channels: Channels of each map.
    """

    def __init__(self, in_channels: int = 3, channels: tuple[int, ...] = (8, 8, 16, 16)) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(4 * 2**i for i in range(len(channels)))
        self.stages = nn.ModuleList()
        for index, width in enumerate(channels):
            step = 4 if index == 0 else 2
            self.stages.append(nn.Sequential(nn.Conv2d(in_channels, width, 3, step, 1), nn.ReLU()))
            in_channels = width

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])


class ToyHead(Head):
    """One convolution on the first map.

    Args:
        in_channels: Channels of the first map.
        num_classes: K.
    """

    conformance: ClassVar = [{"in_channels": 8, "num_classes": 4}]

    def __init__(self, in_channels: int = 8, num_classes: int = 4) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.output = PixelClasses(num_classes, num_classes)
        self.conv_seg = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, features: Features) -> Tensor:
        return self.conv_seg(features[0])

    def loss(self, features: Features, targets: Targets) -> dict[str, Tensor]:
        labels = targets["seg"]
        logits = resize(self(features), size=labels.shape[-2:], mode="bilinear", align_corners=False)
        total = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return {"loss_ce": total / (labels != IGNORE).sum().clamp(min=1)}


class ToySegmentor(Segmentor):
    """The toy backbone and the toy head.

    Args:
        num_classes: K.
        in_channels: Channels of the images.
    """

    def __init__(self, num_classes: int = 4, in_channels: int = 3) -> None:
        super().__init__()
        self.backbone = ToyBackbone(in_channels, channels=(8,))
        self.decode_head = ToyHead(self.backbone.channels[0], num_classes)
        self.outputs = {"seg": self.decode_head.output}
        self.test_cfg = {"mode": "whole"}

    def forward(self, images: Tensor) -> Tensor:
        return self.decode_head(self.backbone(images))

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        losses = self.decode_head.loss(self.backbone(images), targets)
        return {f"decode.{name}": value for name, value in losses.items()}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self(images)}


def toy_batch(number: int, classes: int = 4, size: tuple[int, int] = (33, 48)) -> Batch:
    """Return a batch of two random images with labels, the same one for the same ``number``."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, classes, (2, *size), generator=generator, dtype=torch.uint8)
    labels[:, :2] = IGNORE
    return Batch(images, Targets({"seg": labels}), sizes=[size, size], meta=[{}, {}])
