"""FCN: a few convolutions on one feature map.

Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments


class FCNHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        num_convs: Number of convolutions; without any, ``in_channels`` must be ``channels``.
        kernel_size: Of the convolutions.
        concat_input: Join the input to their result and fuse both with one more.
        dilation: Of the convolutions.
    """

    def __init__(
        self,
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        dilation: int = 1,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if num_convs == 0 and self.in_channels != self.channels:
            message = f"without convolutions, channels must be in_channels, {self.in_channels}"
            raise ConfigError(Problem(message, "channels"))
        self.kernel_size = kernel_size
        convs = [self.conv(self.channels if i else self.in_channels, dilation) for i in range(num_convs)]
        self.convs = nn.Sequential(*convs) if convs else nn.Identity()
        self.conv_cat = self.conv(self.in_channels + self.channels) if concat_input else None

    def forward_feature(self, features: Features) -> Tensor:
        return self.fuse(self.select(features))

    def fuse(self, x: Tensor) -> Tensor:
        """Return what the last convolution sees, (N, channels, h, w)."""
        out = self.convs(x)
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], 1))

    def conv(self, in_channels: int, dilation: int = 1) -> nn.Module:
        """Return one convolution, (N, in_channels, h, w) -> (N, channels, h, w)."""
        return ConvModule(
            in_channels,
            self.channels,
            self.kernel_size,
            padding=self.kernel_size // 2 * dilation,
            dilation=dilation,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
        )
