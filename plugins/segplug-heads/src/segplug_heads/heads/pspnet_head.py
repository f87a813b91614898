"""PSPNet as segmentation_models_pytorch has it: no norm on the coarsest scale, and a 1x1 convolution joins the scales.

Pyramid Scene Parsing Network, Zhao et al., 2017 (https://arxiv.org/abs/1612.01105). MMSegmentation's is `PSPHead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfigs, resize
from segplug_heads.heads.pyramid_head import KernelSize, PyramidHead, UpsampledArguments


class PSPNetHead(PyramidHead):
    """Feature maps, of which the head takes one -> logits (N, out_channels, h, w).

    Args:
        channels: Channels of the decoder.
        pool_scales: Side in bins of each grid that the map is pooled to.
        classifier_kernel_size: Kernel size of the last convolution.
    """

    conformance: ClassVar = {"in_channels": [16], "in_index": [2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        channels: PositiveInt = 512,
        pool_scales: Sequence[PositiveInt] = (1, 2, 3, 6),
        classifier_kernel_size: KernelSize = 3,
        **kwargs: Unpack[UpsampledArguments],
    ) -> None:
        super().__init__(channels, classifier_kernel_size=classifier_kernel_size, **kwargs)
        width = self.in_channels[-1]
        hidden = max(1, width // len(pool_scales))
        # Over a single bin, batch norm would see one value of each image only.
        plain: LayerConfigs = {**self.layer_cfgs, "norm_cfg": None}
        self.psp = nn.ModuleList(
            nn.Sequential(
                AdaptiveAvgPool2d(scale), ConvModule(width, hidden, 1, **(plain if scale == 1 else self.layer_cfgs))
            )
            for scale in pool_scales
        )
        self.conv = ConvModule(width + len(pool_scales) * hidden, channels, 1, **self.layer_cfgs)

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        return [len(strides) - 1]

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)[-1]
        pooled = [resize(pool(x), x.shape[2:], align_corners=True) for pool in self.psp]
        return self.conv(torch.cat([*pooled, x], 1))
