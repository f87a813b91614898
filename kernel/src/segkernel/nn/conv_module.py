"""Convolution, norm and activation in one block, and its depthwise separable form.

State-dict keys are MMSegmentation's: ``conv``, then ``bn`` (or ``gn``, ``ln``, ``in``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn.init import kaiming_init
from segkernel.nn.layers import LayerConfig, build_activation, build_conv, build_norm

_PADDINGS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}


class ConvModule(nn.Module):
    """(N, in_channels, H, W) -> (N, out_channels, H', W'): convolution, norm and activation, in ``order``.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Kernel size in pixels, one number or (height, width).
        stride: Stride of the convolution in pixels.
        padding: Padding in pixels on each side.
        dilation: Distance between kernel points in pixels.
        groups: Groups of channels that are convolved separately.
        bias: Whether the convolution has a bias; ``auto``: only if there is no norm.
        conv_cfg: Type of the convolution; None is ``Conv2d``.
        norm_cfg: Type of the norm; None is no norm.
        act_cfg: Type of the activation; None is no activation.
        inplace: Run the activation in place, if it can.
        with_spectral_norm: Apply spectral normalisation to the convolution.
        padding_mode: ``zeros``, ``circular``, ``reflect`` or ``replicate``.
        order: Order of the three layers; a norm before the convolution has ``in_channels``.

    Raises:
        ConfigError: ``order`` is not a permutation of conv, norm and act, or a layer rejects its arguments.
    """

    abbreviation: ClassVar[str] = "conv_block"
    conformance: ClassVar = {"in_channels": 4, "out_channels": 4, "kernel_size": 3}

    def __init__(
        self,
        in_channels: PositiveInt,
        out_channels: PositiveInt,
        kernel_size: PositiveInt | tuple[PositiveInt, PositiveInt],
        stride: PositiveInt | tuple[PositiveInt, PositiveInt] = 1,
        padding: NonNegativeInt | tuple[NonNegativeInt, NonNegativeInt] = 0,
        dilation: PositiveInt | tuple[PositiveInt, PositiveInt] = 1,
        groups: PositiveInt = 1,
        bias: bool | Literal["auto"] = "auto",
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006  never changed
        inplace: bool = True,
        with_spectral_norm: bool = False,
        padding_mode: str = "zeros",
        order: tuple[str, str, str] = ("conv", "norm", "act"),
    ) -> None:
        super().__init__()
        if sorted(order) != ["act", "conv", "norm"]:
            raise ConfigError(Problem(f"{list(order)} is not a permutation of conv, norm and act", "order"))
        self.order = tuple(order)
        self.padding_layer = None
        if padding_mode in _PADDINGS:
            self.padding_layer = _PADDINGS[padding_mode](_as_sides(padding))
            padding, padding_mode = 0, "zeros"
        conv = build_conv(
            conv_cfg,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=norm_cfg is None if bias == "auto" else bias,
            padding_mode=padding_mode,
        )
        kaiming_init(conv, leaky_slope=_leaky_slope(act_cfg))
        self.conv = nn.utils.parametrizations.spectral_norm(conv) if with_spectral_norm else conv
        self.norm_name: str | None = None
        if norm_cfg is not None:
            channels = out_channels if order.index("norm") > order.index("conv") else in_channels
            self.norm_name, norm = build_norm(norm_cfg, channels)
            self.add_module(self.norm_name, norm)
        self.activate = None if act_cfg is None else build_activation(act_cfg, inplace=inplace)

    @property
    def norm(self) -> nn.Module | None:
        """The norm layer, whose attribute is called ``norm_name``."""
        return None if self.norm_name is None else getattr(self, self.norm_name)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.order:
            if step == "conv":
                x = self.conv(x if self.padding_layer is None else self.padding_layer(x))
            elif step == "norm" and self.norm is not None:
                x = self.norm(x)
            elif step == "act" and self.activate is not None:
                x = self.activate(x)
        return x


class Concat(nn.Module):
    """Maps (N, C_i, H, W) -> (N, sum of C_i, H, W).

    A plugin that optimises inference may exchange it and the convolution after it for a sum of convolutions: pass a
    generator, so that the maps need not exist at the same time, and use one for each convolution.
    """

    def forward(self, maps: Iterable[Tensor]) -> Tensor:
        return torch.cat([*maps], 1)


class DepthwiseSeparableConvModule(nn.Module):
    """A depthwise `ConvModule`, then a pointwise (1x1) one: (N, in_channels, H, W) -> (N, out_channels, H', W').

    MobileNets, Howard et al., 2017 (https://arxiv.org/abs/1704.04861).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Kernel size of the depthwise convolution in pixels, one number or (height, width).
        stride: Stride of the depthwise convolution in pixels.
        padding: Padding of the depthwise convolution in pixels on each side.
        dilation: Distance between kernel points of the depthwise convolution in pixels.
        norm_cfg: Norm of both convolutions.
        act_cfg: Activation of both convolutions.
        dw_norm_cfg: Norm of the depthwise convolution; ``norm_cfg`` by default.
        dw_act_cfg: Activation of the depthwise convolution; ``act_cfg`` by default.
        pw_norm_cfg: Norm of the pointwise convolution; ``norm_cfg`` by default.
        pw_act_cfg: Activation of the pointwise convolution; ``act_cfg`` by default.
        **kwargs: Further arguments of `ConvModule`, for both convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006  never changed
        dw_norm_cfg: LayerConfig | Literal["default"] | None = "default",
        dw_act_cfg: LayerConfig | Literal["default"] | None = "default",
        pw_norm_cfg: LayerConfig | Literal["default"] | None = "default",
        pw_act_cfg: LayerConfig | Literal["default"] | None = "default",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(
            in_channels,
            in_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            norm_cfg=norm_cfg if dw_norm_cfg == "default" else dw_norm_cfg,
            act_cfg=act_cfg if dw_act_cfg == "default" else dw_act_cfg,
            **kwargs,
        )
        self.pointwise_conv = ConvModule(
            in_channels,
            out_channels,
            1,
            norm_cfg=norm_cfg if pw_norm_cfg == "default" else pw_norm_cfg,
            act_cfg=act_cfg if pw_act_cfg == "default" else pw_act_cfg,
            **kwargs,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


def _as_sides(padding: int | tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom)."""
    height, width = (padding, padding) if isinstance(padding, int) else padding
    return width, width, height, height


def _leaky_slope(act_cfg: LayerConfig | None) -> float:
    if act_cfg is None or act_cfg["type"] != "LeakyReLU":
        return 0.0
    return act_cfg.get("negative_slope", 0.01)
