"""UPerNet: a feature pyramid whose coarsest level sees the whole image through pyramid pooling.

Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018 (https://arxiv.org/abs/1807.10221).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, resize
from segplug_heads.heads.psp_head import PyramidPooling


class UPerHead(DecodeHead):
    """Several feature maps, finest first -> (N, out_channels, h, w) at the size of the first.

    Args:
        pool_scales: Cells a side of each pooled grid of the coarsest map.
    """

    fixed_arguments = frozenset({"input_transform"})
    conformance: ClassVar = {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4}

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Unpack[DecodeHeadArguments]) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        layers: dict[str, Any] = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        *finer, coarsest = self.in_channels
        self.psp_modules = PyramidPooling(
            pool_scales, coarsest, self.channels, **layers, align_corners=self.align_corners
        )
        joined = coarsest + len(pool_scales) * self.channels
        self.bottleneck = ConvModule(joined, self.channels, 3, padding=1, **layers)
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, self.channels, 1, inplace=False, **layers) for width in finer
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(self.channels, self.channels, 3, padding=1, inplace=False, **layers) for _ in finer
        )
        joined = len(self.in_channels) * self.channels
        self.fpn_bottleneck = ConvModule(joined, self.channels, 3, padding=1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        *finer, coarsest = self.select(features)
        top = self.bottleneck(torch.cat([coarsest, *self.psp_modules(coarsest)], 1))
        levels = [*(conv(x) for conv, x in zip(self.lateral_convs, finer, strict=True)), top]
        for i in reversed(range(1, len(levels))):
            levels[i - 1] = levels[i - 1] + self._resize(levels[i], levels[i - 1])
        levels = [*(conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)), top]
        return self.fpn_bottleneck(torch.cat([levels[0], *(self._resize(x, levels[0]) for x in levels[1:])], 1))

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        return resize(x, like.shape[2:], align_corners=self.align_corners)
