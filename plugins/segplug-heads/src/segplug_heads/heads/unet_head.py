"""The decoder of U-Net on the feature maps of any backbone.

U-Net: Convolutional Networks for Biomedical Image Segmentation, Ronneberger, Fischer and Brox, 2015
(https://arxiv.org/abs/1505.04597). Two convolutions per block and nearest upsampling are what practitioners build on
pretrained encoders; the paper upsamples by a transposed convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segplug_heads.heads.pyramid_head import InterpolateMode, PyramidArguments
from segplug_heads.heads.skip_head import AttentionType, SkipBlock, SkipHead, TwoConvs


class UNetHead(SkipHead):
    """Feature maps, finest first, each half the size of the one before -> logits (N, out_channels, h, w).

    Args:
        attention_type: ``scse`` is channel and spatial attention before and after the convolutions of each block.
        center_block: Two convolutions on the coarsest map, for backbones such as VGG that end with a pooling.
    """

    conformance: ClassVar = (
        {"in_channels": [8, 16, 24], "in_index": [0, 1, 2], "decoder_channels": [16, 12, 8, 4], "num_classes": 4},
        {
            "in_channels": [8, 16, 24], "in_index": [0, 1, 2], "decoder_channels": [16, 12], "num_classes": 4,
            "attention_type": "scse", "center_block": True, "norm_cfg": {"type": "BN"},
        },
    )  # fmt: skip

    def __init__(
        self,
        decoder_channels: Sequence[PositiveInt] | None = None,
        interpolate_mode: InterpolateMode = "nearest",
        attention_type: AttentionType | None = None,
        center_block: bool = False,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(decoder_channels, interpolate_mode, **kwargs)
        coarsest, *skips = self.in_channels[::-1]
        self.center = TwoConvs(coarsest, coarsest, **self.layer_cfgs) if center_block else None
        self.blocks = nn.ModuleList()
        for width, skip in zip_longest(self.decoder_channels, skips, fillvalue=0):
            self.blocks.append(SkipBlock(coarsest, skip, width, attention_type, **self.layer_cfgs))
            coarsest = width

    def forward_feature(self, features: Features) -> Tensor:
        x, *skips = self.select(features)[::-1]
        x = x if self.center is None else self.center(x)
        for block, skip in zip_longest(self.blocks, skips):
            x = block(self.enlarge(x, skip))
        return x
