"""ISANet: attention between far pixels on a coarse grid, then between near ones inside its cells.

Huang et al., Interlaced Sparse Self-Attention for Semantic Segmentation, 2019.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfig
from segplug_heads.parts.self_attention import SelfAttentionBlock


class ProjectedSelfAttention(SelfAttentionBlock):
    """(N, in_channels, h, w) -> the same shape, what each pixel finds in all, projected.

    Args:
        in_channels: Channels of the map.
        channels: Channels of queries and keys.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
    ) -> None:
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
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.output_project = self.project(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.output_project(super().forward(x, x))


class ISAHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        isa_channels: Channels of queries and keys.
        down_factor: (height, width) in pixels of a cell; the map is padded to whole cells.
    """

    conformance: ClassVar = {
        "in_channels": 16, "channels": 8, "isa_channels": 4, "down_factor": [2, 3], "num_classes": 4
    }  # fmt: skip

    def __init__(
        self, isa_channels: int, down_factor: tuple[int, int] = (8, 8), **kwargs: Unpack[DecodeHeadArguments]
    ) -> None:
        super().__init__(**kwargs)
        self.down_factor = tuple(down_factor)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.in_conv = ConvModule(self.in_channels, self.channels, 3, padding=1, **layers)
        self.global_relation = ProjectedSelfAttention(self.channels, isa_channels, **layers)
        self.local_relation = ProjectedSelfAttention(self.channels, isa_channels, **layers)
        self.out_conv = ConvModule(2 * self.channels, self.channels, 1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.in_conv(self.select(features))
        (cell_height, cell_width), (height, width) = self.down_factor, x.shape[2:]
        rows, columns = (height + cell_height - 1) // cell_height, (width + cell_width - 1) // cell_width
        below, right = rows * cell_height - height, columns * cell_width - width
        top, left = below // 2, right // 2
        padded = F.pad(x, (left, right - left, top, below - top))
        cells = self._attend(padded.reshape(*x.shape[:2], rows, cell_height, columns, cell_width))
        related = cells.reshape(padded.shape)[:, :, top : top + height, left : left + width]
        return self.out_conv(torch.cat([related, x], 1))

    def _attend(self, cells: Tensor) -> Tensor:
        """Return (N, C, rows, cell height, columns, cell width) after both attentions."""
        _, channels, rows, height, columns, width = cells.shape
        apart = cells.permute(0, 3, 5, 1, 2, 4)  # pixels at the same place of every cell
        apart = self.global_relation(apart.reshape(-1, channels, rows, columns)).view(apart.shape)
        inside = apart.permute(0, 4, 5, 3, 1, 2)
        inside = self.local_relation(inside.reshape(-1, channels, height, width)).view(inside.shape)
        return inside.permute(0, 3, 1, 4, 2, 5)
