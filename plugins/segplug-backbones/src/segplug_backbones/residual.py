"""The residual blocks of ResNet, which ResNeXt, ResNeSt and HRNet are built from as well.

Deep Residual Learning for Image Recognition, He et al., 2016 (https://arxiv.org/abs/1512.03385), figure 5. State-dict
keys are MMSegmentation's: ``conv1``, ``bn1`` (or ``gn1``, ``in1``), ``conv2``, ..., plugins by their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.nn import LayerConfig, build_conv, build_norm, build_plugin, checkpoint_block, kaiming_init
from segplug_backbones.pool import CeilAvgPool2d

Style = Literal["pytorch", "caffe"]


def conv_no_bias(conv_cfg: LayerConfig | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Return a convolution without bias, as the norm after it has one, with He et al.'s initialisation."""
    conv = build_conv(conv_cfg, *args, bias=False, **kwargs)
    kaiming_init(conv)
    return conv


class ResidualBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)): (N, C, H, W) -> (N, channels * expansion, ~H / stride, ~W / stride).

    A subclass builds its layers and implements the residual function F, equation 1 of the paper, in `residual`.

    Args:
        with_cp: Activation checkpointing.
    """

    expansion: ClassVar[int]
    norm1_name: str
    norm2_name: str
    downsample: nn.Module | None
    """The shortcut; the identity for None."""

    def __init__(self, with_cp: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.with_cp = with_cp

    @property
    def norm1(self) -> nn.Module:
        return getattr(self, self.norm1_name)

    @property
    def norm2(self) -> nn.Module:
        return getattr(self, self.norm2_name)

    @property
    def last_norm(self) -> nn.Module:
        """The norm at the end of F; with weights of zero, the block is the identity."""
        raise NotImplementedError

    def residual(self, x: Tensor) -> Tensor:
        """Return F(x)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp))

    def _forward(self, x: Tensor) -> Tensor:
        out = self.residual(x)
        out += x if self.downsample is None else self.downsample(x)
        return out

    def _add_norm(self, norm_cfg: LayerConfig, channels: int, number: int) -> str:
        """Add norm ``number`` and return its name, which depends on the type of norm."""
        name, norm = build_norm(norm_cfg, channels, postfix=number)
        self.add_module(name, norm)
        return name


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions, for depths 18 and 34.

    Args:
        in_channels: Input channels.
        channels: Output channels.
        stride: Stride of the first convolution.
        dilation: Dilation of the first convolution; as in MMSegmentation, the second one is not dilated.
        downsample: The shortcut; the identity for None.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        with_cp: Activation checkpointing.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        *,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        with_cp: bool = False,
    ) -> None:
        super().__init__(with_cp)
        self.conv1 = conv_no_bias(
            conv_cfg, in_channels, channels, 3, stride=stride, padding=dilation, dilation=dilation
        )
        self.norm1_name = self._add_norm(norm_cfg, channels, 1)
        self.conv2 = conv_no_bias(conv_cfg, channels, channels, 3, padding=1)
        self.norm2_name = self._add_norm(norm_cfg, channels, 2)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.Module:
        return self.norm2

    def residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(out))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions, for depths from 50 on.

    Args:
        in_channels: Input channels.
        channels: A quarter of the output channels; width of the 3x3 convolution if it has one group.
        stride: Stride of the block, on the convolution that ``style`` names.
        dilation: Dilation of the 3x3 convolution.
        downsample: The shortcut; the identity for None.
        style: Which convolution has the stride: ``caffe``, the first, as in the authors' model; ``pytorch``, the 3x3,
            as in torchvision's, which loses less.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        with_cp: Activation checkpointing.
        dcn: Type of the 3x3 convolution, deformable; with ``fallback_on_stride`` not if it has a stride.
        plugins: Layers after the convolutions, as `PluginConfig` describes them.
        groups: Groups of the 3x3 convolution, the cardinality of ResNeXt.
        base_width: Channels of a group in a stage with ``base_channels``.
        base_channels: Channels of the first stage.
    """

    expansion = 4
    norm3_name: str

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        *,
        style: Style = "pytorch",
        conv_cfg: LayerConfig | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        with_cp: bool = False,
        dcn: LayerConfig | None = None,
        plugins: Sequence[Mapping[str, Any]] = (),
        groups: int = 1,
        base_width: int = 4,
        base_channels: int = 64,
    ) -> None:
        super().__init__(with_cp)
        stride1, stride2 = (stride, 1) if style == "caffe" else (1, stride)
        # ResNeXt 32x4d: 32 groups of 4 channels in the stage of 64, and proportionally more in the next ones.
        width = channels if groups == 1 else math.floor(channels * (base_width / base_channels)) * groups
        out_channels = channels * self.expansion
        self.width, self.groups = width, groups

        self.conv1 = conv_no_bias(conv_cfg, in_channels, width, 1, stride=stride1)
        self.norm1_name = self._add_norm(norm_cfg, width, 1)
        self.after_conv1 = self._add_plugins(plugins, "after_conv1", width)
        self._add_conv2(stride2, dilation, _deformable(dcn, stride2, conv_cfg), norm_cfg)
        self.after_conv2 = self._add_plugins(plugins, "after_conv2", width)
        self.conv3 = conv_no_bias(conv_cfg, width, out_channels, 1)
        self.norm3_name = self._add_norm(norm_cfg, out_channels, 3)
        self.after_conv3 = self._add_plugins(plugins, "after_conv3", out_channels)
        self.downsample = downsample

    @property
    def norm3(self) -> nn.Module:
        return getattr(self, self.norm3_name)

    @property
    def last_norm(self) -> nn.Module:
        return self.norm3

    def residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self._run_plugins(self.after_conv1, out)
        out = self.relu(self.norm2(self.conv2(out)))
        out = self._run_plugins(self.after_conv2, out)
        out = self.norm3(self.conv3(out))
        return self._run_plugins(self.after_conv3, out)

    def _add_conv2(self, stride: int, dilation: int, conv_cfg: LayerConfig | None, norm_cfg: LayerConfig) -> None:
        """Add the 3x3 convolution and its norm."""
        self.conv2 = conv_no_bias(
            conv_cfg,
            self.width,
            self.width,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=self.groups,
        )
        self.norm2_name = self._add_norm(norm_cfg, self.width, 2)

    def _add_plugins(self, plugins: Sequence[Mapping[str, Any]], position: str, channels: int) -> list[str]:
        """Add the plugins of one position and return their names."""
        names = []
        for plugin in plugins:
            if plugin["position"] != position:
                continue
            cfg = {key: value for key, value in plugin["cfg"].items() if key != "postfix"}
            name, layer = build_plugin(cfg, channels, plugin["cfg"].get("postfix", ""))
            if hasattr(self, name):
                raise ConfigError(Problem(f"there are two called {name}", "plugins", hint="give one of them a postfix"))
            self.add_module(name, layer)
            names.append(name)
        return names

    def _run_plugins(self, names: Sequence[str], x: Tensor) -> Tensor:
        # By name: the checkpoints' keys have plugins directly in the block, where a config puts any number of them.
        for name in names:
            x = getattr(self, name)(x)
        return x


def residual_stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    dilations: Sequence[int],
    stride: int = 1,
    avg_down: bool = False,
    *,
    conv_cfg: LayerConfig | None = None,
    norm_cfg: Mapping[str, Any] = {"type": "BN"},
    **options: Any,
) -> nn.Sequential:
    """Return a stage, one block for each of ``dilations``, the first of which changes channels and size.

    (N, in_channels, H, W) -> (N, channels * expansion, ~H / stride, ~W / stride).

    Args:
        block: Class of the blocks.
        in_channels: Input channels.
        channels: Second argument of the blocks.
        dilations: Dilation of each block.
        stride: Stride of the first block.
        avg_down: The shortcut averages before its convolution, ResNet-D, instead of dropping pixels.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms and its arguments.
        **options: Further arguments of the blocks.
    """
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        conv = conv_no_bias(conv_cfg, in_channels, out_channels, 1, stride=1 if avg_down else stride)
        # The pooling is there with stride 1, too: its place counts in the state-dict keys of the layers after it.
        pool = [CeilAvgPool2d(stride)] if avg_down else []
        downsample = nn.Sequential(*pool, conv, build_norm(norm_cfg, out_channels)[1])
    options |= {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
    first = block(in_channels, channels, stride, dilations[0], downsample, **options)
    others = (block(out_channels, channels, dilation=dilation, **options) for dilation in dilations[1:])
    return nn.Sequential(first, *others)


def zero_last_norms(module: nn.Module) -> None:
    """Start all residual blocks of ``module`` as the identity (Goyal et al., 2017)."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            weight = getattr(block.last_norm, "weight", None)  # None if the norm is not affine
            if weight is not None:
                nn.init.zeros_(weight)


def _deformable(dcn: LayerConfig | None, stride: int, conv_cfg: LayerConfig | None) -> LayerConfig | None:
    """Return the type of a 3x3 convolution with this stride."""
    if dcn is None or (dcn.get("fallback_on_stride", False) and stride != 1):
        return conv_cfg
    return {key: value for key, value in dcn.items() if key != "fallback_on_stride"}
