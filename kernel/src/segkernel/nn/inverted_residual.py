"""Inverted residuals: widen with 1x1, filter each channel, narrow with 1x1; the input is added where it fits.

MobileNetV2, Sandler et al., 2018 (https://arxiv.org/abs/1801.04381); with channel weights: Searching for MobileNetV3,
Howard et al., 2019 (https://arxiv.org/abs/1905.02244). State-dict keys are MMSegmentation's.
"""

from __future__ import annotations

from torch import Tensor, nn

from segkernel.nn.conv_module import ConvModule
from segkernel.nn.drop_path import DropPath
from segkernel.nn.layers import LayerConfig
from segkernel.nn.squeeze import SELayer


class InvertedResidual(nn.Module):
    """MobileNetV2's: (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).

    Args:
        stride: The input is added when it is 1 and the channels stay the same.
        expand_ratio: Width inside, as a multiple of ``in_channels``; 1 leaves out the widening.
        dilation: Of the 3x3 convolution.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation; there is none at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expand_ratio: float,
        dilation: int = 1,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig | None = {"type": "ReLU6"},  # noqa: B006
    ) -> None:
        super().__init__()
        hidden = round(in_channels * expand_ratio)
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvModule(in_channels, hidden, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg))
        filtering = ConvModule(
            hidden,
            hidden,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=hidden,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        narrowing = ConvModule(hidden, out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None)
        self.conv = nn.Sequential(*layers, filtering, narrowing)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


class InvertedResidualV3(nn.Module):
    """MobileNetV3's and EfficientNet's: (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).

    Args:
        mid_channels: Width inside; ``in_channels`` leaves out the widening.
        kernel_size: Of the convolution of each channel.
        stride: The input is added when it is 1 and the channels stay the same.
        dilation: Of the convolution of each channel.
        se_cfg: Arguments of the `SELayer` before the narrowing; None is without.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation; there is none at the end.
        drop_path_rate: Share of images whose branch is dropped in training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        se_cfg: LayerConfig | None = None,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = {"type": "BN"},  # noqa: B006  never changed
        act_cfg: LayerConfig | None = {"type": "ReLU"},  # noqa: B006
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.expand_conv = None
        if mid_channels != in_channels:
            self.expand_conv = ConvModule(
                in_channels, mid_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
            )
        self.depthwise_conv = ConvModule(
            mid_channels,
            mid_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=mid_channels,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
        )
        self.se = None if se_cfg is None else SELayer(**se_cfg)
        self.linear_conv = ConvModule(mid_channels, out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None)
        self.adds_input = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand_conv is None else self.expand_conv(x)
        out = self.depthwise_conv(out)
        out = self.linear_conv(out if self.se is None else self.se(out))
        return x + self.drop_path(out) if self.adds_input else out
