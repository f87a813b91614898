"""The head of Fast-SCNN: an FCN of depthwise separable convolutions.

Fast-SCNN: Fast Semantic Segmentation Network, Poudel, Liwicki and Cipolla, 2019 (https://arxiv.org/abs/1902.04502).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import Unpack

from segkernel.annotations import NonNegativeInt, OddInt, PositiveInt
from segkernel.nn import DecodeHeadArguments, DepthwiseSeparableConvModule
from segplug_heads.heads.fcn_head import FCNHead


class DepthwiseSeparableFCNHead(FCNHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        dw_act_cfg: Activation of the depthwise convolutions; None for no activation.
        num_convs: Number of convolutions before the classifier.
        kernel_size: Kernel size of the convolutions, in pixels.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        dilation: Dilation of the convolutions.
    """

    def __init__(
        self,
        dw_act_cfg: dict[str, Any] | None = None,
        num_convs: NonNegativeInt = 2,
        kernel_size: OddInt = 3,
        concat_input: bool = True,
        dilation: PositiveInt = 1,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        self.dw_act_cfg = dw_act_cfg  # before the base's constructor, which calls `conv`
        super().__init__(num_convs, kernel_size, concat_input, dilation, **kwargs)

    def conv(self, in_channels: int, dilation: int = 1) -> nn.Module:
        return DepthwiseSeparableConvModule(
            in_channels,
            self.channels,
            self.kernel_size,
            padding=self.kernel_size // 2 * dilation,
            dilation=dilation,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            dw_act_cfg=self.dw_act_cfg,
        )
