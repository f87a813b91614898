"""The head of SeaFormer: the shared map, weighed in turn by those of each stage with attention.

SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation, Wan et al., 2023
(https://arxiv.org/abs/2301.13156), section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, LayerConfig, MultiLevelHeadArguments, resize


class FusionBlock(nn.Module):
    """Weigh a map by the hard sigmoid of a coarser one: (N, C, H, W), (N, D, h, w) -> (N, E, H, W)."""

    def __init__(self, in_channels: int, weight_channels: int, out_channels: int, norm_cfg: LayerConfig | None) -> None:
        super().__init__()
        self.local_embedding = ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.global_act = ConvModule(weight_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, x: Tensor, coarse: Tensor) -> Tensor:
        weight = resize(F.hardsigmoid(self.global_act(coarse)), (x.shape[2], x.shape[3]))
        return self.local_embedding(x) * weight


class SeaFormerHead(DecodeHead):
    """Maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        embed_dims: Channels after each fusion; the last one is ``channels``.
        is_dw: Whether the last convolution before the logits is depthwise.

    Raises:
        ConfigError: There is not one fewer of ``embed_dims`` than of maps, or the last one is not ``channels``.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "embed_dims": [8, 12],
        "in_channels": [4, 8, 16],
        "in_index": [0, 1, 2],
        "channels": 12,
        "num_classes": 4,
    }

    def __init__(
        self, embed_dims: Sequence[PositiveInt], is_dw: bool = False, **kwargs: Unpack[MultiLevelHeadArguments]
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if len(embed_dims) != len(self.in_channels) - 1:
            raise ConfigError(Problem(f"{len(embed_dims)} widths for {len(self.in_channels)} maps", "embed_dims"))
        if embed_dims[-1] != self.channels:
            raise ConfigError(Problem(f"the last of {list(embed_dims)} is not channels, {self.channels}", "embed_dims"))
        widths = [self.in_channels[0], *embed_dims]
        for i, coarse in enumerate(self.in_channels[1:]):
            self.add_module(f"fuse{i + 1}", FusionBlock(widths[i], coarse, widths[i + 1], self.norm_cfg))
        width = self.channels
        groups = width if is_dw else 1
        self.linear_fuse = ConvModule(width, width, 1, groups=groups, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)

    def forward_feature(self, features: Features) -> Tensor:
        x, *coarse = self.select(features)
        for i, weight in enumerate(coarse):
            x = getattr(self, f"fuse{i + 1}")(x, weight)
        return self.linear_fuse(x)
