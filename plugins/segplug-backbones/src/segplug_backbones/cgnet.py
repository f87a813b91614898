"""CGNet: blocks of local, surrounding and global context, in half a million parameters.

    maps = CGNet()(torch.rand(2, 3, 512, 1024))  # strides 2, 4, 8

CGNet: A Light-weight Context Guided Network for Semantic Segmentation, Wu et al., 2020
(https://arxiv.org/abs/1811.08201).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    AdaptiveAvgPool2d,
    ConvModule,
    FreezableBackbone,
    LayerConfig,
    build_conv,
    build_norm,
    checkpoint_block,
)
from segplug_backbones.pretrained import Pretrained


class GlobalContextExtractor(nn.Module):
    """Channel attention from the global average: (N, channels, h, w) -> the same shape.

    Args:
        channels: Channels of the feature map.
        reduction: The hidden layer has ``channels / reduction`` channels.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
    """

    def __init__(self, channels: int, reduction: int, with_cp: bool) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.avg_pool = AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor) -> Tensor:
        attention = self.fc(self.avg_pool(x).flatten(1))
        return x * attention[:, :, None, None]


class ContextGuidedBlock(nn.Module):
    """A depthwise and a dilated depthwise convolution, concatenated, and channel attention; figure 3 of the paper.

    (N, in_channels, h, w) -> (N, out_channels, h, w) with a residual connection; half the size and without one if
    ``downsample``.

    Args:
        in_channels: Input channels; ``out_channels`` unless ``downsample``.
        out_channels: Output channels.
        dilation: Dilation of the convolution for the surrounding context.
        reduction: Input channels of the channel attention per hidden channel.
        downsample: Halve the size.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Kind of activation of the first convolution.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int,
        reduction: int,
        downsample: bool,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        with_cp: bool,
    ) -> None:
        super().__init__()
        channels = out_channels if downsample else out_channels // 2
        kernel_size, stride, padding = (3, 2, 1) if downsample else (1, 1, 0)
        depthwise = partial(build_conv, conv_cfg, channels, channels, 3, groups=channels, bias=False)
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": _activation(act_cfg, channels)}
        self.conv1x1 = ConvModule(in_channels, channels, kernel_size, stride=stride, padding=padding, **layers)
        self.f_loc = depthwise(padding=1)
        self.f_sur = depthwise(padding=dilation, dilation=dilation)
        self.bn = build_norm(norm_cfg, 2 * channels)[1]
        # Always a PReLU, whatever `act_cfg` is, as in MMSegmentation: its slopes are in every checkpoint.
        self.activate = nn.PReLU(2 * channels)
        self.bottleneck = build_conv(conv_cfg, 2 * channels, out_channels, 1, bias=False) if downsample else None
        self.f_glo = GlobalContextExtractor(out_channels, reduction, with_cp)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1x1(x)
        out = self.activate(self.bn(torch.cat([self.f_loc(out), self.f_sur(out)], dim=1)))
        if self.bottleneck is None:
            return x + self.f_glo(out)
        return self.f_glo(self.bottleneck(out))


class CGNet(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to three feature maps at strides 2, 4 and 8.

    They have num_channels[0] + in_channels, 2 num_channels[1] + in_channels and 2 num_channels[2] channels: the reduced
    image is concatenated to the first two, and the output of a stage's first block to that of its last.

    Args:
        in_channels: Channels of the image.
        num_channels: Width of the stem and of the two stages.
        num_blocks: Blocks of the two stages.
        dilations: Dilation of the blocks of each stage.
        reductions: Reduction of the channel attention in the blocks of each stage.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Kind of activation; a PReLU has a slope for each channel.
        norm_eval: Keep batch norm in evaluation mode while training.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument has the wrong length or a number below 1.
    """

    conformance: ClassVar = {"num_channels": (4, 8, 16), "num_blocks": (2, 2), "reductions": (2, 4)}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        num_channels: Sequence[PositiveInt] = (32, 64, 128),
        num_blocks: Sequence[PositiveInt] = (3, 21),
        dilations: Sequence[PositiveInt] = (2, 4),
        reductions: Sequence[PositiveInt] = (8, 16),
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        act_cfg: Mapping[str, Any] = {"type": "PReLU"},
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        _check_lengths(num_channels, num_blocks, dilations, reductions)
        self.norm_eval, self.pretrained = norm_eval, pretrained
        stem, first, second = num_channels
        layers: dict[str, Any] = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        stem_layers = {**layers, "act_cfg": _activation(act_cfg, stem)}
        self.stem = nn.ModuleList([
            ConvModule(in_channels, stem, 3, stride=2, padding=1, **stem_layers),
            ConvModule(stem, stem, 3, padding=1, **stem_layers),
            ConvModule(stem, stem, 3, padding=1, **stem_layers),
        ])  # fmt: skip
        self.shrink = nn.AvgPool2d(3, stride=2, padding=1)
        self.channels = (stem + in_channels, 2 * first + in_channels, 2 * second)
        self.strides = (2, 4, 8)
        self.norm_prelu_0, self.norm_prelu_1, self.norm_prelu_2 = (
            nn.Sequential(build_norm(norm_cfg, width)[1], nn.PReLU(width)) for width in self.channels
        )
        self.level1, self.level2 = (
            nn.ModuleList(
                ContextGuidedBlock(
                    width if block else self.channels[stage],
                    width,
                    dilations[stage],
                    reductions[stage],
                    downsample=block == 0,
                    act_cfg=act_cfg,
                    with_cp=with_cp,
                    **layers,
                )
                for block in range(num_blocks[stage])
            )
            for stage, width in enumerate((first, second))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return three maps, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        half = self.shrink(images)  # input injection: the reduced image goes into every stage
        x = images
        for conv in self.stem:
            x = conv(x)
        fine = self.norm_prelu_0(torch.cat([x, half], dim=1))
        start, end = self._level(self.level1, fine)
        # The authors' code concatenates (last, first) here and (first, last) below; checkpoints depend on both orders.
        middle = self.norm_prelu_1(torch.cat([end, start, self.shrink(half)], dim=1))
        start, end = self._level(self.level2, middle)
        return fine, middle, self.norm_prelu_2(torch.cat([start, end], dim=1))

    @staticmethod
    def _level(blocks: nn.ModuleList, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of the first and of the last block."""
        start = x = blocks[0](x)
        for block in blocks[1:]:
            x = block(x)
        return start, x


def _activation(act_cfg: LayerConfig, channels: int) -> LayerConfig:
    """Return ``act_cfg``, for a PReLU with a slope for each channel."""
    return {**act_cfg, "num_parameters": channels} if act_cfg.get("type") == "PReLU" else act_cfg


def _check_lengths(channels: Sequence[int], *per_stage: Sequence[int]) -> None:
    names = ("num_channels", "num_blocks", "dilations", "reductions")
    for name, values, count in zip(names, (channels, *per_stage), (3, 2, 2, 2)):
        if len(values) != count or min(values) < 1:
            raise ConfigError(Problem(f"{list(values)} must be {count} numbers of 1 or more", name))
