"""CCNet: each pixel sees its row and its column; seen twice, that is the whole image.

Huang et al., CCNet: Criss-Cross Attention for Semantic Segmentation, 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments
from segplug_heads.heads.scale import Scale


class CrissCrossAttention(nn.Module):
    """(N, in_channels, h, w) -> the same shape: the input plus a weighted mean over each pixel's row and column.

    Args:
        in_channels: Channels of the map, 8 at least.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.key_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = Scale(0.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        height = x.shape[2]
        of_column = torch.einsum("nchw,nciw->nhwi", query, key)
        itself = torch.eye(height, dtype=torch.bool, device=x.device)  # is in the row already
        of_column = of_column.masked_fill(itself[:, None], -torch.inf)
        of_row = torch.einsum("nchw,nchj->nhwj", query, key)
        weights = torch.cat([of_column, of_row], 3).softmax(3)
        found = torch.einsum("nciw,nhwi->nchw", value, weights[..., :height])
        found = found + torch.einsum("nchj,nhwj->nchw", value, weights[..., height:])
        return self.gamma(found) + x


class CCHead(FCNBlockHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        recurrence: How many times the attention is applied.
        kernel_size: Of the convolutions.
        concat_input: Join the input to the result and fuse both with one more convolution.
        dilation: Of the convolutions.
    """

    def __init__(self, recurrence: int = 2, **kwargs: Unpack[FCNBlockHeadArguments]) -> None:
        super().__init__(**kwargs)
        self.recurrence = recurrence
        self.cca = CrissCrossAttention(self.channels)

    def block(self, x: Tensor) -> Tensor:
        for _ in range(self.recurrence):
            x = self.cca(x)
        return x
