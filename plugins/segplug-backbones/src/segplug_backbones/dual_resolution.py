"""Building blocks of DDRNet and PIDNet: residual stages, and pyramid pooling for maps of low resolution.

Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes, Hong et al.,
2021 (https://arxiv.org/abs/2101.06085). The parallel pyramid pooling: PIDNet: A Real-time Semantic Segmentation Network
Inspired by PID Controllers, Xu et al., 2023 (https://arxiv.org/abs/2206.02066).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.nn import AdaptiveAvgPool2d, ConvModule, LayerConfig, build_activation, resize

Shortcut = Callable[[int, int, int], nn.Module]
"""Makes a 1x1 convolution and its norm from input channels, output channels and stride."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, in_channels, h, w) -> (N, channels, ~h / stride, ~w / stride).

    Args:
        in_channels: Input channels.
        channels: Output channels.
        stride: Stride of the first convolution; 2 halves the map.
        downsample: The shortcut; the identity for None.
        norm_cfg: Type of the norms.
        act_cfg: Activation between the convolutions.
        act_cfg_out: Activation after the sum; None for no activation.
        bias: Whether the convolutions have a bias.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        downsample: nn.Module | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        act_cfg_out: LayerConfig | None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        layers: dict[str, Any] = {"padding": 1, "bias": bias, "norm_cfg": norm_cfg}
        self.conv1 = ConvModule(in_channels, channels, 3, stride=stride, act_cfg=act_cfg, **layers)
        self.conv2 = ConvModule(channels, channels, 3, act_cfg=None, **layers)
        self.downsample = downsample
        self.act = None if act_cfg_out is None else build_activation(act_cfg_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        out += x if self.downsample is None else self.downsample(x)
        return out if self.act is None else self.act(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (N, in_channels, h, w) -> (N, 2 channels, h/s, w/s).

    Args:
        in_channels: Input channels.
        channels: Channels of the 3x3 convolution, half of the output channels.
        stride: Stride of the 3x3 convolution; 2 halves the map.
        downsample: The shortcut; the identity for None.
        norm_cfg: Type of the norms.
        act_cfg: Activation between the convolutions.
        act_cfg_out: Activation after the sum; None for no activation.
    """

    expansion: ClassVar[int] = 2

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        downsample: nn.Module | None,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        act_cfg_out: LayerConfig | None,
    ) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv2 = ConvModule(channels, channels, 3, stride=stride, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv3 = ConvModule(channels, channels * self.expansion, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.downsample = downsample
        self.act = None if act_cfg_out is None else build_activation(act_cfg_out)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(x)))
        out += x if self.downsample is None else self.downsample(x)
        return out if self.act is None else self.act(out)


Block = type[BasicBlock] | type[Bottleneck]


class StageBuilder:
    """Builds the blocks and stages of one network, all with the same norms and activations.

    Args:
        shortcut: Builds the shortcuts that change size or channels.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
    """

    def __init__(self, shortcut: Shortcut, norm_cfg: LayerConfig, act_cfg: LayerConfig) -> None:
        self.shortcut, self.norm_cfg, self.act_cfg = shortcut, norm_cfg, act_cfg

    def block(
        self, kind: Block, in_channels: int, channels: int, stride: int = 1, act: bool = False
    ) -> BasicBlock | Bottleneck:
        """Return one block, with an activation after the sum if ``act``."""
        out_channels = channels * kind.expansion
        changes = stride != 1 or in_channels != out_channels
        return kind(
            in_channels,
            channels,
            stride=stride,
            downsample=self.shortcut(in_channels, out_channels, stride) if changes else None,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            act_cfg_out=self.act_cfg if act else None,
        )

    def stage(self, kind: Block, in_channels: int, channels: int, count: int, stride: int = 1) -> nn.Sequential:
        """Return ``count`` blocks. The last one has no activation after its sum: the network adds something first.

        As in the reference, neither has the first bottleneck, and the first basic block always has one.
        """
        first = self.block(kind, in_channels, channels, stride, act=kind is BasicBlock)
        out_channels = channels * kind.expansion
        others = (self.block(kind, out_channels, channels, act=i < count) for i in range(2, count + 1))
        return nn.Sequential(first, *others)

    def stem(self, in_channels: int, channels: int, count: int) -> nn.Sequential:
        """Return the stem that all branches share, (N, in_channels, H, W) -> (N, 2 channels, ~H / 8, ~W / 8)."""
        layers: dict[str, Any] = {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        return nn.Sequential(
            ConvModule(in_channels, channels, 3, stride=2, padding=1, **layers),
            ConvModule(channels, channels, 3, stride=2, padding=1, **layers),
            self.stage(BasicBlock, channels, channels, count),
            nn.ReLU(),
            self.stage(BasicBlock, channels, channels * 2, count, stride=2),
            nn.ReLU(),
        )


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling module: average pools of growing size, each refined with the one before it.

    (N, in_channels, h, w) -> (N, out_channels, h, w), for maps at stride 64. Equation 2 of the DDRNet paper.

    Args:
        in_channels: Input channels.
        branch_channels: Channels of each scale.
        out_channels: Output channels.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations.
        bias: Whether the convolutions have a bias.
    """

    strides: ClassVar = (2, 4, 8)

    def __init__(
        self,
        in_channels: int,
        branch_channels: int,
        out_channels: int,
        norm_cfg: LayerConfig,
        act_cfg: LayerConfig,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self._layers: dict[str, Any] = {
            "bias": bias, "norm_cfg": norm_cfg, "act_cfg": act_cfg, "order": ("norm", "act", "conv")
        }  # fmt: skip
        # Windows of 5, 9 and 17 pixels with strides of 2, 4 and 8, and the whole map. Convolutions are preactivated, as
        # the stage before ends without an activation.
        pools = [*(nn.AvgPool2d(2 * stride + 1, stride, stride) for stride in self.strides), AdaptiveAvgPool2d(1)]
        self.scales = nn.ModuleList([ConvModule(in_channels, branch_channels, 1, **self._layers)])
        for pool in pools:
            self.scales.append(nn.Sequential(pool, ConvModule(in_channels, branch_channels, 1, **self._layers)))
        self._add_processes(len(pools), branch_channels)
        self.compression = ConvModule(branch_channels * len(self.scales), out_channels, 1, **self._layers)
        self.shortcut = ConvModule(in_channels, out_channels, 1, **self._layers)

    def forward(self, x: Tensor) -> Tensor:
        first, *pooled = (scale(x) for scale in self.scales)
        pooled = [resize(average, x.shape[2:]) for average in pooled]
        return self.compression(torch.cat(self._refine(first, pooled), dim=1)) + self.shortcut(x)

    def _add_processes(self, count: int, channels: int) -> None:
        """Add the convolutions that refine ``count`` pooled maps."""
        convs = (ConvModule(channels, channels, 3, padding=1, **self._layers) for _ in range(count))
        self.processes: nn.Module = nn.ModuleList(convs)

    def _refine(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        assert isinstance(self.processes, nn.ModuleList)
        outputs = [first]
        for process, average in zip(self.processes, pooled):
            outputs.append(process(average + outputs[-1]))
        return outputs


class PAPPM(DAPPM):
    """Parallel aggregation pyramid pooling module of PIDNet: the pooled maps are refined by one grouped convolution.

    Each is added to the unpooled map instead of the scale before it, so that none waits for another.
    """

    def _add_processes(self, count: int, channels: int) -> None:
        self.processes = ConvModule(channels * count, channels * count, 3, padding=1, groups=count, **self._layers)

    def _refine(self, first: Tensor, pooled: list[Tensor]) -> list[Tensor]:
        return [first, self.processes(torch.cat([average + first for average in pooled], dim=1))]
