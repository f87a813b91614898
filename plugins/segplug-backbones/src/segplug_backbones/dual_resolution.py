"""What DDRNet and PIDNet are made of: residual stages, and pyramids of pools for very small maps.

Reference: Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes, Hong et al.,
2021 (https://arxiv.org/abs/2101.06085). The parallel pyramid: PIDNet: A Real-time Semantic Segmentation Network
Inspired by PID Controllers, Xu et al., 2023 (https://arxiv.org/abs/2206.02066).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfig, build_activation, resize

Shortcut = Callable[[int, int, int], nn.Module]
"""Makes a strided 1x1 convolution with its norm from channels in, channels out and stride."""


class Residual(nn.Module):
    """Convolutions and a shortcut, added: (N, in_channels, h, w) -> (N, channels * expansion, ~h/stride, ~w/stride).

    Args:
        in_channels: Of the input.
        channels: Width of the convolutions.
        stride: Of the first 3x3 convolution.
        downsample: The shortcut; the input as it is for None.
        norm_cfg: Type of the norms.
        act_cfg: Kind of activation between the convolutions.
        act_cfg_out: After the sum; none for None.
    """

    expansion: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        downsample: nn.Module | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        act_cfg_out: LayerConfig | None,
    ) -> None:
        super().__init__()
        self._add_convs(in_channels, channels, stride, partial(ConvModule, norm_cfg=norm_cfg, act_cfg=act_cfg))
        self.downsample = downsample
        self.act = None if act_cfg_out is None else build_activation(act_cfg_out)

    def _add_convs(self, in_channels: int, channels: int, stride: int, conv: Callable[..., ConvModule]) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = self._convolved(x) + (x if self.downsample is None else self.downsample(x))
        return out if self.act is None else self.act(out)

    def _convolved(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def _add_convs(self, in_channels: int, channels: int, stride: int, conv: Callable[..., ConvModule]) -> None:
        self.conv1 = conv(in_channels, channels, 3, stride=stride, padding=1)
        self.conv2 = conv(channels, channels, 3, padding=1, act_cfg=None)

    def _convolved(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions, the last of which doubles the channels."""

    expansion = 2

    def _add_convs(self, in_channels: int, channels: int, stride: int, conv: Callable[..., ConvModule]) -> None:
        self.conv1 = conv(in_channels, channels, 1)
        self.conv2 = conv(channels, channels, 3, stride=stride, padding=1)
        self.conv3 = conv(channels, channels * self.expansion, 1, act_cfg=None)

    def _convolved(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


class Stages:
    """Makes the blocks and stages of one network.

    Args:
        shortcut: Makes the shortcuts that change size or channels.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(self, shortcut: Shortcut, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        self.shortcut, self.norm_cfg, self.act_cfg = shortcut, norm_cfg, act_cfg

    def block(
        self, kind: type[Residual], in_channels: int, channels: int, stride: int = 1, act: bool = False
    ) -> Residual:
        """Return one block, with an activation after the sum if ``act``."""
        outputs = channels * kind.expansion
        changes = stride != 1 or in_channels != outputs
        downsample = self.shortcut(in_channels, outputs, stride) if changes else None
        act_cfg_out = self.act_cfg if act else None
        return kind(in_channels, channels, stride, downsample, self.norm_cfg, self.act_cfg, act_cfg_out)

    def stage(
        self, kind: type[Residual], in_channels: int, channels: int, count: int, stride: int = 1
    ) -> nn.Sequential:
        """Return a row of blocks with activations between them, but none after a bottleneck that is the first."""
        first = self.block(kind, in_channels, channels, stride, act=kind is BasicBlock)
        outputs = channels * kind.expansion
        return nn.Sequential(
            first, *(self.block(kind, outputs, channels, act=number < count) for number in range(2, count + 1))
        )

    def stem(self, in_channels: int, channels: int, count: int) -> nn.Sequential:
        """Return what all branches share, (N, in_channels, H, W) -> (N, 2 channels, ~H/8, ~W/8)."""
        conv = partial(ConvModule, stride=2, padding=1, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        return nn.Sequential(
            conv(in_channels, channels, 3),
            conv(channels, channels, 3),
            self.stage(BasicBlock, channels, channels, count),
            nn.ReLU(),
            self.stage(BasicBlock, channels, channels * 2, count, stride=2),
            nn.ReLU(),
        )


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: averages over ever larger areas, each refined with the one before it.

    (N, in_channels, h, w) -> (N, out_channels, h, w), for maps at stride 64.

    Args:
        in_channels: Of the map.
        branch_channels: Of each average.
        out_channels: Of the result.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    strides: ClassVar = (2, 4, 8)

    def __init__(
        self, in_channels: int, branch_channels: int, out_channels: int, norm_cfg: LayerConfig, act_cfg: LayerConfig
    ) -> None:
        super().__init__()
        order = ("norm", "act", "conv")
        conv = partial(ConvModule, bias=False, norm_cfg=norm_cfg, act_cfg=act_cfg, order=order)
        pools = [nn.AvgPool2d(2 * stride + 1, stride, stride) for stride in self.strides]
        pooled = (nn.Sequential(pool, conv(in_channels, branch_channels, 1)) for pool in (*pools, AdaptiveAvgPool2d(1)))
        self.scales = nn.ModuleList([conv(in_channels, branch_channels, 1), *pooled])
        self.processes = self._processes(len(pools) + 1, branch_channels, conv)
        self.compression = conv(branch_channels * len(self.scales), out_channels, 1)
        self.shortcut = conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, *pooled = (scale(x) for scale in self.scales)
        averages = [resize(average, x.shape[2:]) for average in pooled]
        return self.compression(torch.cat(self._refined(first, averages), dim=1)) + self.shortcut(x)

    def _processes(self, count: int, channels: int, conv: Callable[..., ConvModule]) -> nn.Module:
        """Return the convolutions that refine ``count`` averages."""
        return nn.ModuleList(conv(channels, channels, 3, padding=1) for _ in range(count))

    def _refined(self, first: Tensor, averages: list[Tensor]) -> list[Tensor]:
        outputs = [first]
        for process, average in zip(self.processes, averages):  # type: ignore[call-overload]
            outputs.append(process(average + outputs[-1]))
        return outputs


class PAPPM(DAPPM):
    """`DAPPM` whose averages are refined side by side, which is faster."""

    def _processes(self, count: int, channels: int, conv: Callable[..., ConvModule]) -> nn.Module:
        return conv(channels * count, channels * count, 3, padding=1, groups=count)

    def _refined(self, first: Tensor, averages: list[Tensor]) -> list[Tensor]:
        return [first, self.processes(torch.cat([average + first for average in averages], dim=1))]
