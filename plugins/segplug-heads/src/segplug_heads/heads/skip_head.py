"""What U-Net and its descendants share: blocks that double the resolution and join the backbone's maps.

Attention ``scse``: Concurrent Spatial and Channel Squeeze and Excitation in Fully Convolutional Networks, Roy, Navab
and Wachinger, 2018 (https://arxiv.org/abs/1803.02579).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfigs, resize
from segplug_heads.heads.pyramid_head import (
    InterpolateMode,
    KernelSize,
    PyramidHead,
    UpsampledArguments,
    halving_maps,
)

AttentionType = Literal["scse"]


class SkipHead(PyramidHead):
    """Base class of decoders that double the resolution block by block and join the next finer map of the backbone.

    Args:
        decoder_channels: Output channels of each block, coarsest first; at least one for each map but the coarsest.
            Blocks beyond the finest map only double the resolution. None is 256, 128, 64, 32 and 16, or the last of
            them, one for each time that the backbone halves the resolution; without ``feature_strides``, one per map.
        interpolate_mode: Interpolation of the upsampling.
        classifier_kernel_size: Kernel size of the last convolution.

    Raises:
        ConfigError: When ``decoder_channels`` are too few.
    """

    fixed_arguments = frozenset({"input_transform", "channels"})

    def __init__(
        self,
        decoder_channels: Sequence[PositiveInt] | None = None,
        interpolate_mode: InterpolateMode = "nearest",
        classifier_kernel_size: KernelSize = 3,
        **kwargs: Unpack[UpsampledArguments],
    ) -> None:
        if decoder_channels is None:
            strides = kwargs.get("feature_strides")
            blocks = round(math.log2(strides[-1])) if strides else len(kwargs["in_channels"])
            decoder_channels = [16 * 2 ** min(i, 4) for i in reversed(range(blocks))]
        if len(decoder_channels) < max(1, len(kwargs["in_channels"]) - 1):
            message = f"{list(decoder_channels)}: at least {len(kwargs['in_channels']) - 1} blocks"
            raise ConfigError(Problem(message, "decoder_channels"))
        super().__init__(decoder_channels[-1], classifier_kernel_size=classifier_kernel_size, **kwargs)
        self.decoder_channels, self.interpolate_mode = tuple(decoder_channels), interpolate_mode
        # From the usual 0.01 all weights move alike in a short run: rare classes get no feature of their own.
        self.conv_seg.reset_parameters()

    @classmethod
    def select_maps(cls, strides: Sequence[int]) -> list[int]:
        return halving_maps(strides)

    def enlarge(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Return ``x`` at the size of ``skip``, or at twice its own, with ``skip`` (N, C, H, W) concatenated."""
        size = (2 * x.shape[2], 2 * x.shape[3]) if skip is None else skip.shape[2:]
        x = resize(x, size, mode=self.interpolate_mode, align_corners=self.align_corners)
        return x if skip is None else torch.cat([x, skip], 1)


class TwoConvs(nn.Module):
    """Two 3x3 convolutions: (N, in_channels, H, W) -> (N, channels, H, W)."""

    def __init__(self, in_channels: int, channels: int, **layers: Unpack[LayerConfigs]) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, channels, 3, padding=1, **layers)
        self.conv2 = ConvModule(channels, channels, 3, padding=1, **layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class SkipBlock(TwoConvs):
    """Two convolutions between attentions: (N, in_channels + skip_channels, H, W) -> (N, channels, H, W)."""

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        channels: int,
        attention_type: AttentionType | None,
        **layers: Unpack[LayerConfigs],
    ) -> None:
        super().__init__(in_channels + skip_channels, channels, **layers)
        # The first chooses among the skip connection's channels and the decoder's: without one there is no choice.
        self.attention1 = SCSE(in_channels + skip_channels) if attention_type and skip_channels else nn.Identity()
        self.attention2 = SCSE(channels) if attention_type else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention2(super().forward(self.attention1(x)))


class SCSE(nn.Module):
    """Channel attention plus spatial attention: (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the map.
        reduction: Divisor of the hidden channels.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.cSE = squeeze_excitation(channels, reduction)
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cSE(x) + x * self.sSE(x)


def squeeze_excitation(channels: int, reduction: int) -> nn.Sequential:
    """Return the layers that compute channel weights (N, channels, 1, 1) from a map (N, channels, H, W)."""
    hidden = max(1, channels // reduction)
    return nn.Sequential(
        AdaptiveAvgPool2d(1),
        nn.Conv2d(channels, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
        nn.Sigmoid(),
    )
