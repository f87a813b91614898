"""The residual blocks of ResNet and ResNeXt.

State-dict keys are MMSegmentation's: ``conv1``, ``bn1``, ``conv2``, ``bn2`` ..., plugins by their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.nn import build_conv, build_norm, build_plugin, kaiming_init
from segplug_backbones.recompute import recompute, worth_recomputing

Style = Literal["pytorch", "caffe"]


def new_conv(conv_cfg: Mapping[str, Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Return a convolution without bias, as ``conv_cfg`` has it, drawn for rectified activations."""
    conv = build_conv(conv_cfg, *args, bias=False, **kwargs)
    kaiming_init(conv)
    return conv


class Block(nn.Module):
    """A residual block, relu(branch(x) + shortcut(x)): (N, C, H, W) -> (N, channels * expansion, ~H/stride, ~W/stride).

    The branch is a row of convolutions, each with its norm and, but for the last, a ReLU: conv1, bn1, conv2, bn2, ...
    """

    expansion: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        *,
        style: Style = "pytorch",
        with_cp: bool = False,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        dcn: Mapping[str, Any] | None = None,
        plugins: Sequence[Mapping[str, Any]] = (),
        groups: int = 1,
        base_width: int = 4,
        base_channels: int = 64,
    ) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.style, self.with_cp, self.norm_cfg, self.plugins = style, with_cp, norm_cfg, plugins
        self.groups = groups
        self.width = channels if groups == 1 else math.floor(channels * (base_width / base_channels)) * groups
        self._conv = partial(new_conv, conv_cfg)
        self._middle_cfg = conv_cfg if dcn is None else _deformable(dcn, stride, conv_cfg)
        self._steps: list[str] = []
        self._make_branch(in_channels, channels, stride, dilation)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the branch."""
        return getattr(self, self._last_norm)

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and worth_recomputing(x):
            return self.relu(recompute(self, self._sum, x))
        return self.relu(self._sum(x))

    def _sum(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for step in self._steps:
            x = getattr(self, step)(x)
        return x + shortcut

    def _make_branch(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        raise NotImplementedError

    def _add(self, number: int, conv: nn.Module, channels: int) -> None:
        """Append a convolution and its norm to the branch."""
        self._last_norm, norm = build_norm(self.norm_cfg, channels, postfix=number)
        self.add_module(f"conv{number}", conv)
        self.add_module(self._last_norm, norm)
        self._steps += [f"conv{number}", self._last_norm]

    def _add_plugins(self, number: int, channels: int) -> None:
        """Append the plugins that stand behind convolution ``number``."""
        for plugin in self.plugins:
            if plugin["position"] != f"after_conv{number}":
                continue
            cfg = {key: value for key, value in plugin["cfg"].items() if key != "postfix"}
            name, layer = build_plugin(cfg, channels, plugin["cfg"].get("postfix", ""))
            if hasattr(self, name):
                raise ConfigError(Problem(f"two are called {name}", "plugins", hint="give one of them a postfix"))
            self.add_module(name, layer)
            self._steps.append(name)


class BasicBlock(Block):
    """Two 3x3 convolutions, for depth 18 and 34; only the first is strided and dilated."""

    expansion = 1

    def _make_branch(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        first = self._conv(in_channels, channels, 3, stride=stride, padding=dilation, dilation=dilation)
        self._add(1, first, channels)
        self._steps.append("relu")
        self._add(2, self._conv(channels, channels, 3, padding=1), channels)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, from depth 50 on; the 3x3 is dilated, and deformable where ``dcn`` says so."""

    expansion = 4

    def _make_branch(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        first, second = (stride, 1) if self.style == "caffe" else (1, stride)
        self._add(1, self._conv(in_channels, self.width, 1, stride=first), self.width)
        self._steps.append("relu")
        self._add_plugins(1, self.width)
        self._add_middle(second, dilation)
        self._add_plugins(2, self.width)
        self._add(3, self._conv(self.width, channels * self.expansion, 1), channels * self.expansion)
        self._add_plugins(3, channels * self.expansion)

    def _add_middle(self, stride: int, dilation: int) -> None:
        options: dict[str, Any] = {"stride": stride, "padding": dilation, "dilation": dilation, "groups": self.groups}
        self._add(2, new_conv(self._middle_cfg, self.width, self.width, 3, **options), self.width)
        self._steps.append("relu")


def _deformable(dcn: Mapping[str, Any], stride: int, conv_cfg: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the middle convolution's config; ``fallback_on_stride`` keeps the ordinary one where it strides."""
    if dcn.get("fallback_on_stride", False) and stride != 1:
        return conv_cfg
    return {key: value for key, value in dcn.items() if key != "fallback_on_stride"}
