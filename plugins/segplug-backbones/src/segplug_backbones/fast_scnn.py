"""Fast-SCNN: a two-branch network for real-time segmentation of large images.

    higher, lower, fused = FastSCNN()(torch.rand(2, 3, 512, 1024))  # strides 8, 32, 8

Fast-SCNN: Fast Semantic Segmentation Network, Poudel, Liwicki and Cipolla, 2019
(https://arxiv.org/abs/1902.04502).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    ConvModule,
    DepthwiseSeparableConvModule,
    LayerConfig,
    PyramidPooling,
    check_out_indices,
    resize,
)
from segplug_backbones.inverted_residual import InvertedResidual


class LearningToDownsample(nn.Module):
    """The shallow stem that both branches share: (N, in_channels, H, W) -> (N, out_channels, ~H/8, ~W/8)."""

    def __init__(
        self,
        in_channels: int,
        dw_channels: Sequence[int],
        out_channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        dw_act_cfg: LayerConfig | None,
    ) -> None:
        super().__init__()
        first, second = dw_channels
        self.conv = ConvModule(
            in_channels, first, 3, stride=2, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        # As in the reference, neither conv_cfg nor act_cfg reaches these two.
        self.dsconv1 = DepthwiseSeparableConvModule(
            first, second, 3, stride=2, padding=1, norm_cfg=norm_cfg, dw_act_cfg=dw_act_cfg
        )
        self.dsconv2 = DepthwiseSeparableConvModule(
            second, out_channels, 3, stride=2, padding=1, norm_cfg=norm_cfg, dw_act_cfg=dw_act_cfg
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.dsconv2(self.dsconv1(self.conv(x)))


class GlobalFeatureExtractor(nn.Module):
    """The deep branch: (N, in_channels, H, W) -> (N, out_channels, ~H/s, ~W/s), s the product of ``strides``.

    Three groups of inverted residuals, then pyramid pooling.
    """

    def __init__(
        self,
        in_channels: int,
        block_channels: Sequence[int],
        out_channels: int,
        strides: Sequence[int],
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        align_corners: bool,
        expand_ratio: int = 6,
        num_blocks: Sequence[int] = (3, 3, 3),
        pool_scales: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        inputs = (in_channels, *block_channels)
        first, second, third = (
            _inverted_residuals(
                inputs[i],
                block_channels[i],
                count=num_blocks[i],
                stride=strides[i],
                expand_ratio=expand_ratio,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg,
            )
            for i in range(3)
        )
        self.bottleneck1, self.bottleneck2, self.bottleneck3 = first, second, third
        deepest = block_channels[2]
        self.ppm = PyramidPooling(
            pool_scales,
            deepest,
            deepest // 4,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            align_corners=align_corners,
        )
        pooled = deepest + deepest // 4 * len(pool_scales)
        self.out = ConvModule(pooled, out_channels, 3, padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bottleneck3(self.bottleneck2(self.bottleneck1(x)))
        return self.out(torch.cat([x, *self.ppm(x)], dim=1))


class FeatureFusion(nn.Module):
    """The coarse branch, upsampled and convolved, plus the fine one: two maps -> (N, out_channels, fine H, fine W)."""

    def __init__(
        self,
        higher_in_channels: int,
        lower_in_channels: int,
        out_channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        align_corners: bool,
    ) -> None:
        super().__init__()
        # The paper dilates this convolution by the upsampling factor (table 3); MMSegmentation and its weights do not.
        self.dwconv = ConvModule(
            lower_in_channels,
            out_channels,
            3,
            padding=1,
            groups=out_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.conv_lower_res = ConvModule(
            out_channels, out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None
        )
        self.conv_higher_res = ConvModule(
            higher_in_channels, out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None
        )
        self.relu = nn.ReLU(inplace=True)
        self.align_corners = align_corners

    def forward(self, higher: Tensor, lower: Tensor) -> Tensor:
        lower = resize(lower, higher.shape[2:], align_corners=self.align_corners)
        lower = self.conv_lower_res(self.dwconv(lower))
        return self.relu(self.conv_higher_res(higher) + lower)


class FastSCNN(Backbone):
    """Images (N, in_channels, H, W) to the fine, the coarse and the fused map, at strides 8, 32 and 8 by default.

    Args:
        in_channels: Channels of the image.
        downsample_dw_channels: Channels after the first and the second convolution.
        global_in_channels: Channels of the fine map.
        global_block_channels: Channels of the three groups of inverted residuals.
        global_block_strides: Strides of those groups.
        global_out_channels: Channels of the coarse map.
        higher_in_channels: Must be ``global_in_channels``.
        lower_in_channels: Must be ``global_out_channels``.
        fusion_out_channels: Channels of the fused map; ``lower_in_channels`` must be a multiple of it.
        out_indices: The maps to return: 0 fine, 1 coarse, 2 fused.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        align_corners: As in `segkernel.nn.resize`.
        dw_act_cfg: Activation after the depthwise convolutions of the stem; None for no activation.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance_exceptions: ClassVar = {"order": "the fused map, finer than the coarse one, has always been the third"}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        downsample_dw_channels: Sequence[PositiveInt] = (32, 48),
        global_in_channels: PositiveInt = 64,
        global_block_channels: Sequence[PositiveInt] = (64, 96, 128),
        global_block_strides: Sequence[PositiveInt] = (2, 2, 1),
        global_out_channels: PositiveInt = 128,
        higher_in_channels: PositiveInt = 64,
        lower_in_channels: PositiveInt = 128,
        fusion_out_channels: PositiveInt = 128,
        out_indices: Sequence[int] = (0, 1, 2),
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "ReLU"},
        align_corners: bool = False,
        dw_act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        _check_equal("higher_in_channels", higher_in_channels, "global_in_channels", global_in_channels)
        _check_equal("lower_in_channels", lower_in_channels, "global_out_channels", global_out_channels)
        if lower_in_channels % fusion_out_channels:
            message = f"{lower_in_channels} is not divisible by fusion_out_channels, {fusion_out_channels}"
            raise ConfigError(Problem(message, "lower_in_channels"))
        _check_lengths(downsample_dw_channels, global_block_channels, global_block_strides)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.learning_to_downsample = LearningToDownsample(
            in_channels, downsample_dw_channels, global_in_channels, dw_act_cfg=dw_act_cfg, **layers
        )
        self.global_feature_extractor = GlobalFeatureExtractor(
            global_in_channels,
            global_block_channels,
            global_out_channels,
            strides=global_block_strides,
            align_corners=align_corners,
            **layers,
        )
        self.feature_fusion = FeatureFusion(
            higher_in_channels, lower_in_channels, fusion_out_channels, align_corners=align_corners, **layers
        )
        self.out_indices = check_out_indices(out_indices, 3)
        channels = (global_in_channels, global_out_channels, fusion_out_channels)
        strides = (8, 8 * math.prod(global_block_strides), 8)
        self.channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        higher = self.learning_to_downsample(images)
        lower = self.global_feature_extractor(higher)
        outputs = (higher, lower, self.feature_fusion(higher, lower))
        return tuple(outputs[i] for i in self.out_indices)


def _inverted_residuals(
    in_channels: int,
    channels: int,
    count: int,
    stride: int,
    expand_ratio: int,
    norm_cfg: LayerConfig,
    act_cfg: LayerConfig,
) -> nn.Sequential:
    layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
    first = InvertedResidual(in_channels, channels, stride, expand_ratio, **layers)
    others = (InvertedResidual(channels, channels, 1, expand_ratio, **layers) for _ in range(count - 1))
    return nn.Sequential(first, *others)


def _check_equal(name: str, value: int, other: str, other_value: int) -> None:
    if value != other_value:
        raise ConfigError(Problem(f"{value}, but {other} is {other_value}; they must be the same", name))


def _check_lengths(downsample: Sequence[int], channels: Sequence[int], strides: Sequence[int]) -> None:
    for name, values, count in (
        ("downsample_dw_channels", downsample, 2),
        ("global_block_channels", channels, 3),
        ("global_block_strides", strides, 3),
    ):
        if len(values) != count:
            raise ConfigError(Problem(f"{list(values)} must have {count} numbers", name))
