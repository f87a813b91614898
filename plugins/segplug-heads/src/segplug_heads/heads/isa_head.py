"""ISANet: dense attention factorised into a long-range one across a coarse grid and a short-range one inside its cells.

Interlaced Sparse Self-Attention for Semantic Segmentation, Huang et al., 2019 (https://arxiv.org/abs/1907.12273).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfigs
from segplug_heads.parts.self_attention import SelfAttentionBlock


class ProjectedSelfAttention(SelfAttentionBlock):
    """Self-attention with an output projection: (N, in_channels, h, w) -> the same shape.

    Args:
        in_channels: Channels of the feature map.
        channels: Channels of queries and keys.
        layers: Types of the layers.
    """

    def __init__(self, in_channels: int, channels: int, layers: LayerConfigs) -> None:
        super().__init__(
            key_in_channels=in_channels,
            query_in_channels=in_channels,
            channels=channels,
            out_channels=in_channels,
            share_key_query=False,
            query_downsample=None,
            key_downsample=None,
            key_query_num_convs=2,
            value_out_num_convs=1,
            key_query_norm=True,
            value_out_norm=False,
            matmul_norm=True,
            with_out=False,
            **layers,
        )
        self.output_project = self.project(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # queries and keys are of one map
        return self.output_project(super().forward(x, x))


class ISAHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        isa_channels: Channels of queries and keys.
        down_factor: (height, width) of a cell in pixels of the feature map, which is padded to whole cells.
    """

    conformance: ClassVar = {
        "in_channels": 16, "channels": 8, "isa_channels": 4, "down_factor": [2, 3], "num_classes": 4
    }  # fmt: skip

    def __init__(
        self,
        isa_channels: PositiveInt,
        down_factor: tuple[PositiveInt, PositiveInt] = (8, 8),
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.down_factor = tuple(down_factor)
        self.in_conv = ConvModule(self.in_channels, self.channels, 3, padding=1, **self.layer_cfgs)
        self.global_relation = ProjectedSelfAttention(self.channels, isa_channels, self.layer_cfgs)
        self.local_relation = ProjectedSelfAttention(self.channels, isa_channels, self.layer_cfgs)
        self.out_conv = ConvModule(2 * self.channels, self.channels, 1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.in_conv(self.select(features))
        (cell_height, cell_width), (height, width) = self.down_factor, x.shape[2:]
        rows, columns = (height + cell_height - 1) // cell_height, (width + cell_width - 1) // cell_width
        pad_height, pad_width = rows * cell_height - height, columns * cell_width - width
        # The odd pixel of the padding goes to the bottom and right, as in MMSegmentation.
        top, left = pad_height // 2, pad_width // 2
        padded = F.pad(x, (left, pad_width - left, top, pad_height - top))
        cells = self._interlaced_attention(padded.reshape(*x.shape[:2], rows, cell_height, columns, cell_width))
        context = cells.reshape(padded.shape)[:, :, top : top + height, left : left + width]
        return self.out_conv(torch.cat([context, x], 1))

    def _interlaced_attention(self, cells: Tensor) -> Tensor:
        """Apply both attentions to (N, C, rows, cell height, columns, cell width)."""
        _, channels, rows, height, columns, width = cells.shape
        # Long range: pixels at the same position of every cell attend to one another.
        x = cells.permute(0, 3, 5, 1, 2, 4)
        x = self.global_relation(x.reshape(-1, channels, rows, columns)).view(x.shape)
        # Short range: pixels of one cell attend to one another.
        x = x.permute(0, 4, 5, 3, 1, 2)
        x = self.local_relation(x.reshape(-1, channels, height, width)).view(x.shape)
        return x.permute(0, 3, 1, 4, 2, 5)
