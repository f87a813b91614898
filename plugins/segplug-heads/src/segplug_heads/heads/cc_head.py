"""CCNet: attention of each pixel to its row and column; applied twice, every pixel reaches every other one.

CCNet: Criss-Cross Attention for Semantic Segmentation, Huang et al., 2019 (https://arxiv.org/abs/1811.11721).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments
from segplug_heads.heads.scale import Scale


class CrissCrossAttention(nn.Module):
    """(N, in_channels, h, w) -> the same shape: the input plus, scaled, the attention to each pixel's row and column.

    Args:
        in_channels: Channels of the feature map, at least 8: queries and keys have an eighth of them.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        # An eighth of the channels: the authors' fixed reduction.
        self.query_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.key_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = Scale(0.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        height = x.shape[2]
        column_logits = torch.einsum("nchw,nciw->nhwi", query, key)
        # The pixel itself is in its row and in its column; it counts once.
        itself = torch.eye(height, dtype=torch.bool, device=x.device)
        column_logits = column_logits.masked_fill(itself[:, None], -torch.inf)
        row_logits = torch.einsum("nchw,nchj->nhwj", query, key)
        weights = torch.cat([column_logits, row_logits], 3).softmax(3)
        context = torch.einsum("nciw,nhwi->nchw", value, weights[..., :height])
        context = context + torch.einsum("nchj,nhwj->nchw", value, weights[..., height:])
        return self.gamma(context) + x


class CCHead(FCNBlockHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        recurrence: Times the attention is applied; its weights are shared.
        kernel_size: Kernel size of the convolutions, in pixels.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        dilation: Dilation of the convolutions.
    """

    def __init__(self, recurrence: PositiveInt = 2, **kwargs: Unpack[FCNBlockHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.recurrence = recurrence  # after two passes every pixel has seen every other, the paper's R = 2
        self.cca = CrissCrossAttention(self.channels)

    def block(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = self.cca(x)
        return x
