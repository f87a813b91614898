"""Inverted residual blocks: expand with 1x1, depthwise convolution, project with 1x1.

MobileNetV2, Sandler et al., 2018 (https://arxiv.org/abs/1801.04381); with squeeze-and-excitation: Searching for
MobileNetV3, Howard et al., 2019 (https://arxiv.org/abs/1905.02244). State-dict keys are MMSegmentation's.
"""

from __future__ import annotations

from torch import Tensor, nn

from segkernel.nn import ConvModule, DropPath, LayerConfig
from segplug_backbones.squeeze import SELayer


class InvertedResidual(nn.Module):
    """MobileNetV2's: (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Stride of the depthwise convolution; 1 with unchanged channels adds a residual connection.
        expand_ratio: Hidden channels, as a multiple of ``in_channels``; 1 leaves out the expansion.
        dilation: Dilation of the depthwise 3x3 convolution.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations; the projection has none, the paper's linear bottleneck.
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
        depthwise = ConvModule(
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
        project = ConvModule(hidden, out_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None)
        self.conv = nn.Sequential(*layers, depthwise, project)
        self.use_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_residual else self.conv(x)


class InvertedResidualV3(nn.Module):
    """MobileNetV3's and EfficientNet's: (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        mid_channels: Hidden channels; ``in_channels`` leaves out the expansion.
        kernel_size: Side of the depthwise kernels in pixels.
        stride: Stride of the depthwise convolution; 1 with unchanged channels adds a residual connection.
        dilation: Dilation of the depthwise convolution.
        se_cfg: Arguments of the `SELayer` before the projection; None is without.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
        act_cfg: Type of the activations; the projection has none.
        drop_path_rate: Drop path rate of the residual branch.
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
        self.use_residual = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = x if self.expand_conv is None else self.expand_conv(x)
        out = self.depthwise_conv(out)
        if self.se is not None:
            out = self.se(out)
        out = self.linear_conv(out)
        return x + self.drop_path(out) if self.use_residual else out
