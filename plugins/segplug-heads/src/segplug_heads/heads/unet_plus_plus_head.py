"""UNet++: between encoder and decoder of a U-Net, a grid of nodes on nested, dense skip connections.

UNet++: A Nested U-Net Architecture for Medical Image Segmentation, Zhou et al., 2018
(https://arxiv.org/abs/1807.10165).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segplug_heads.heads.pyramid_head import InterpolateMode, PyramidArguments
from segplug_heads.heads.skip_head import AttentionType, SkipBlock, SkipHead


class UNetPlusPlusHead(SkipHead):
    """Feature maps, finest first, each half the size of the one before -> logits (N, out_channels, h, w).

    Node ``x_{start}_{level}`` has the size of the map ``level + 1``, counted from the coarsest; it ends a path that
    left the backbone at the map ``start``. Those of ``start`` 0 are the decoder, the others have their map's channels.

    Args:
        attention_type: ``scse`` is channel and spatial attention before and after the convolutions of each node.
    """

    conformance: ClassVar = (
        {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "decoder_channels": [16, 12, 8], "num_classes": 4},
        {
            "in_channels": [8, 16],
            "in_index": [0, 1],
            "decoder_channels": [16],
            "num_classes": 4,
            "attention_type": "scse",
        },
    )

    def __init__(
        self,
        decoder_channels: Sequence[PositiveInt] | None = None,
        interpolate_mode: InterpolateMode = "nearest",
        attention_type: AttentionType | None = None,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(decoder_channels, interpolate_mode, **kwargs)
        maps = self.in_channels[::-1]
        self.levels = len(maps) - 1
        self.blocks = nn.ModuleDict()
        for level, width in enumerate(self.decoder_channels):
            below = self.decoder_channels[level - 1] if level else maps[0]
            if level >= self.levels:  # finer than all maps
                self.blocks[f"x_0_{level}"] = SkipBlock(below, 0, width, attention_type, **self.layer_cfgs)
                continue
            skip = maps[level + 1]
            for start in range(level + 1):
                inputs, outputs = (maps[level], skip) if start else (below, width)
                # The skip connections are all nodes of this level that start later, and the backbone's map.
                skips = skip * (level - start + 1)
                self.blocks[f"x_{start}_{level}"] = SkipBlock(inputs, skips, outputs, attention_type, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        maps = self.select(features)[::-1]
        above: dict[int, Tensor] = {}
        for level in range(self.levels):
            nodes: dict[int, Tensor] = {}
            for start in reversed(range(level + 1)):
                x = maps[level] if start == level else above[start]
                skip = torch.cat([*(nodes[later] for later in range(start + 1, level + 1)), maps[level + 1]], 1)
                nodes[start] = self.blocks[f"x_{start}_{level}"](self.enlarge(x, skip))
            above = nodes
        x = above[0]
        for level in range(self.levels, len(self.decoder_channels)):
            x = self.blocks[f"x_0_{level}"](self.enlarge(x, None))
        return x
