"""A decode head: convolutions on one feature map."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import OddInt, PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments


class MyModelHead(DecodeHead):
    """A feature map (N, in_channels, h, w) to logits (N, num_classes, h, w).

    Args:
        num_convs: Convolutions before the last one, which gives the logits.
        kernel_size: Side of their kernels, in pixels.
    """

    def __init__(
        self, num_convs: PositiveInt = 2, kernel_size: OddInt = 3, **kwargs: Unpack[DecodeHeadArguments]
    ) -> None:
        super().__init__(**kwargs)
        widths = [self.in_channels, *[self.channels] * num_convs]
        self.convs = nn.Sequential(
            *(
                ConvModule(before, width, kernel_size, padding=kernel_size // 2, **self.layer_cfgs)
                for before, width in itertools.pairwise(widths)
            )
        )

    def forward_feature(self, features: Features) -> Tensor:
        return self.convs(self.select(features))
