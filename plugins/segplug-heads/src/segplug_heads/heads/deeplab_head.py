"""DeepLabV3 and V3+ as torchvision and segmentation_models_pytorch have them: a 1x1 convolution joins the branches.

Rethinking Atrous Convolution for Semantic Image Segmentation, Chen et al., 2017 (https://arxiv.org/abs/1706.05587);
Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, Chen et al., 2018
(https://arxiv.org/abs/1802.02611). MMSegmentation's are `ASPPHead` and `DepthwiseSeparableASPPHead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfigs, resize
from segplug_heads.heads.pyramid_head import PyramidArguments, PyramidHead


class DeepLabV3Head(PyramidHead):
    """Feature maps, of which the head takes one -> logits (N, out_channels, h, w).

    Args:
        channels: Channels of each branch and of the decoder.
        atrous_rates: Dilation of each 3x3 branch.
        aspp_separable: Depthwise separable 3x3 branches.
        aspp_dropout: Dropout rate after the branches are joined.
    """

    conformance: ClassVar = {"in_channels": [16], "in_index": [2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        channels: PositiveInt = 256,
        atrous_rates: Sequence[PositiveInt] = (12, 24, 36),
        aspp_separable: bool = False,
        aspp_dropout: Probability = 0.5,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(channels, **kwargs)
        self.aspp = ASPP(self.in_channels[-1], channels, atrous_rates, aspp_separable, aspp_dropout, **self.layer_cfgs)
        self.conv = ConvModule(channels, channels, 3, padding=1, **self.layer_cfgs)

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        return [len(strides) - 1]

    def forward_feature(self, features: Features) -> Tensor:
        return self.conv(self.aspp(self.select(features)[-1]))


class DeepLabV3PlusHead(PyramidHead):
    """A low-level and a coarse feature map -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        channels: Channels of each branch and of the decoder.
        low_level_channels: Channels that the low-level map is projected to.
        atrous_rates: Dilation of each 3x3 branch.
        aspp_separable: Depthwise separable 3x3 branches.
        aspp_dropout: Dropout rate after the branches are joined.
    """

    conformance: ClassVar = {"in_channels": [8, 16], "in_index": [0, 2], "channels": 8, "num_classes": 4}

    def __init__(
        self,
        channels: PositiveInt = 256,
        low_level_channels: PositiveInt = 48,
        atrous_rates: Sequence[PositiveInt] = (12, 24, 36),
        aspp_separable: bool = True,
        aspp_dropout: Probability = 0.5,
        **kwargs: Unpack[PyramidArguments],
    ) -> None:
        super().__init__(channels, **kwargs)
        low_level, coarse = self.in_channels
        self.aspp = ASPP(coarse, channels, atrous_rates, aspp_separable, aspp_dropout, **self.layer_cfgs)
        self.aspp_conv = SeparableConv(channels, channels, 1, **self.layer_cfgs)
        self.low_level_conv = ConvModule(low_level, low_level_channels, 1, **self.layer_cfgs)
        self.fusion_conv = SeparableConv(low_level_channels + channels, channels, 1, **self.layer_cfgs)

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        if 4 not in strides[:-1]:
            message = f"needs a map of stride 4 and a coarser one, the backbone's have strides {list(strides)}"
            raise ConfigError(Problem(message, "backbone", hint="choose them by its out_indices"))
        return [list(strides).index(4), len(strides) - 1]

    def forward_feature(self, features: Features) -> Tensor:
        low_level, coarse = self.select(features)
        x = self.aspp_conv(self.aspp(coarse))
        x = resize(x, low_level.shape[2:], align_corners=True)
        return self.fusion_conv(torch.cat([x, self.low_level_conv(low_level)], 1))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: (N, in_channels, h, w) -> (N, channels, h, w)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        atrous_rates: Sequence[int],
        separable: bool,
        dropout: float,
        **layers: Unpack[LayerConfigs],
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ConvModule(in_channels, channels, 1, **layers)])
        for rate in atrous_rates:
            if separable:
                self.convs.append(SeparableConv(in_channels, channels, rate, **layers))
            else:
                self.convs.append(ConvModule(in_channels, channels, 3, padding=rate, dilation=rate, **layers))
        self.pool = nn.Sequential(AdaptiveAvgPool2d(1), ConvModule(in_channels, channels, 1, **layers))
        self.project = ConvModule((len(atrous_rates) + 2) * channels, channels, 1, **layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        image = self.pool(x).expand(-1, -1, x.shape[2], x.shape[3])
        return self.dropout(self.project(torch.cat([*(conv(x) for conv in self.convs), image], 1)))


class SeparableConv(nn.Sequential):
    """A depthwise and a pointwise convolution, with norm and activation after both: (N, in, h, w) -> (N, out, h, w)."""

    def __init__(self, in_channels: int, channels: int, dilation: int, **layers: Unpack[LayerConfigs]) -> None:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
        super().__init__(depthwise, ConvModule(in_channels, channels, 1, **layers))
