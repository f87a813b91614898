"""FCN: a few convolutions on one feature map.

Fully Convolutional Networks for Semantic Segmentation, Long, Shelhamer and Darrell, 2015
(https://arxiv.org/abs/1411.4038).
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import NonNegativeInt, OddInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import Concat, ConvModule, DecodeHead, DecodeHeadArguments


class FCNHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        num_convs: Number of convolutions before the classifier; 0 needs ``in_channels`` equal to ``channels``.
        kernel_size: Kernel size of the convolutions, in pixels.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        dilation: Dilation of the convolutions.

    Raises:
        ConfigError: There is no convolution to turn ``in_channels`` into ``channels``.
    """

    def __init__(
        self,
        num_convs: NonNegativeInt = 2,
        kernel_size: OddInt = 3,
        concat_input: bool = True,
        dilation: PositiveInt = 1,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if num_convs == 0 and self.in_channels != self.channels:
            message = f"without convolutions, channels must be in_channels, {self.in_channels}"
            raise ConfigError(Problem(message, "channels"))
        self.kernel_size = kernel_size
        convs = [self.conv(self.channels if i else self.in_channels, dilation) for i in range(num_convs)]
        self.convs = nn.Sequential(*convs) if convs else nn.Identity()
        # Without the dilation of the other convolutions, as in MMSegmentation.
        self.concat = Concat()
        self.conv_cat = self.conv(self.in_channels + self.channels) if concat_input else None

    def forward_feature(self, features: Features) -> Tensor:
        return self.convolve(self.select(features))

    def convolve(self, x: Tensor) -> Tensor:
        """Apply the convolutions before the classifier: (N, in_channels, h, w) -> (N, channels, h, w)."""
        out = self.convs(x)
        return out if self.conv_cat is None else self.conv_cat(self.concat([x, out]))

    def conv(self, in_channels: int, dilation: int = 1) -> nn.Module:
        """Return one convolution, (N, in_channels, h, w) -> (N, channels, h, w)."""
        return ConvModule(
            in_channels,
            self.channels,
            self.kernel_size,
            padding=self.kernel_size // 2 * dilation,
            dilation=dilation,
            **self.layer_cfgs,
        )
