"""The head of Fast-SCNN: an FCN of depthwise separable convolutions.

Poudel, Liwicki and Cipolla, Fast-SCNN: Fast Semantic Segmentation Network, 2019.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import Unpack

from segkernel.nn import DecodeHeadArguments, DepthwiseSeparableConvModule
from segplug_heads.heads.fcn_head import FCNHead


class DepthwiseSeparableFCNHead(FCNHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        dw_act_cfg: Activation after the depthwise parts; none for None.
        num_convs: Number of convolutions, one at least.
        kernel_size: Of the convolutions.
        concat_input: Join the input to their result and fuse both with one more.
        dilation: Of the convolutions.
    """

    def __init__(
        self,
        dw_act_cfg: dict[str, Any] | None = None,
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        dilation: int = 1,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        self.dw_act_cfg = dw_act_cfg  # first, because the base builds the convolutions
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
