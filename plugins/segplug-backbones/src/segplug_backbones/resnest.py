"""ResNeSt: ResNet whose 3x3 convolutions have several splits, weighted by attention.

    backbone = ResNeSt(101, stem_channels=128, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))

ResNeSt: Split-Attention Networks, Zhang et al., 2020 (https://arxiv.org/abs/2004.08955).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.nn import LayerConfig, adaptive_avg_pool, build_conv, build_norm, kaiming_init
from segplug_backbones.residual import Bottleneck, conv_no_bias
from segplug_backbones.resnet import ResNetArguments, ResNetV1d, Variants


class RSoftmax(nn.Module):
    """Softmax over the splits of each channel, or a sigmoid if there is one split, equation 3 of the paper.

    (N, groups * radix * C / groups, 1, 1) -> (N, radix * C, 1, 1): the groups come first in the logits, as the layer
    that computes them is grouped, and the splits in the result.
    """

    def __init__(self, radix: int, groups: int) -> None:
        super().__init__()
        self.radix, self.groups = radix, groups

    def forward(self, logits: Tensor) -> Tensor:
        if self.radix == 1:
            return logits.sigmoid()
        splits = logits.unflatten(1, (self.groups, self.radix, -1)).transpose(1, 2)
        return splits.softmax(1).flatten(1, 3)


class SplitAttentionConv2d(nn.Module):
    """(N, in_channels, H, W) -> (N, channels, h, w): ``radix`` convolutions, summed with attention for each channel.

    Args:
        in_channels: Input channels.
        channels: Output channels, those of each split.
        kernel_size: Side of the kernels in pixels.
        stride: Stride in pixels.
        padding: Zero padding on each side in pixels.
        dilation: Spacing of the kernel elements in pixels.
        groups: Groups of each convolution, the paper's cardinality.
        radix: Number of splits.
        reduction_factor: The hidden layer of the attention has ``in_channels * radix / reduction_factor`` channels, 32
            at least.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        radix: int = 2,
        reduction_factor: int = 4,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.radix = radix
        hidden = max(in_channels * radix // reduction_factor, 32)
        # All splits are one grouped convolution.
        self.conv = conv_no_bias(
            conv_cfg,
            in_channels,
            channels * radix,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups * radix,
        )
        self.norm0_name, norm0 = build_norm(norm_cfg, channels * radix, postfix=0)
        self.add_module(self.norm0_name, norm0)
        self.norm1_name, norm1 = build_norm(norm_cfg, hidden, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = build_conv(None, channels, hidden, 1, groups=groups)
        self.fc2 = build_conv(None, hidden, channels * radix, 1, groups=groups)
        self.rsoftmax = RSoftmax(radix, groups)
        kaiming_init(self.fc1)
        kaiming_init(self.fc2)

    @property
    def norm0(self) -> nn.Module:
        return getattr(self, self.norm0_name)

    @property
    def norm1(self) -> nn.Module:
        return getattr(self, self.norm1_name)

    def forward(self, x: Tensor) -> Tensor:
        splits = self.relu(self.norm0(self.conv(x))).unflatten(1, (self.radix, -1))
        context = adaptive_avg_pool(splits.sum(1), 1)
        logits = self.fc2(self.relu(self.norm1(self.fc1(context))))
        attention = self.rsoftmax(logits).unflatten(1, (self.radix, -1))
        return (attention * splits).sum(1)


class SplitAttentionBottleneck(Bottleneck):
    """`Bottleneck` with `SplitAttentionConv2d`, whose norms and activations are inside.

    Args:
        *args: Those of `Bottleneck`.
        radix: Splits of the convolution.
        reduction_factor: Reduction of the hidden channels of its attention.
        avg_down_stride: An average pooling after the convolution has the stride.
        **kwargs: Those of `Bottleneck`.
    """

    def __init__(
        self, *args: Any, radix: int = 2, reduction_factor: int = 4, avg_down_stride: bool = True, **kwargs: Any
    ) -> None:
        self.radix, self.reduction_factor, self.avg_down_stride = radix, reduction_factor, avg_down_stride
        super().__init__(*args, **kwargs)

    def residual(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self._run_plugins(self.after_conv1, out)
        out = self.conv2(out)
        if self.avd_layer is not None:
            out = self.avd_layer(out)
        out = self._run_plugins(self.after_conv2, out)
        out = self.norm3(self.conv3(out))
        return self._run_plugins(self.after_conv3, out)

    def _add_conv2(self, stride: int, dilation: int, conv_cfg: LayerConfig | None, norm_cfg: LayerConfig) -> None:
        pools = self.avg_down_stride and stride > 1
        self.conv2 = SplitAttentionConv2d(
            self.width,
            self.width,
            3,
            stride=1 if pools else stride,
            padding=dilation,
            dilation=dilation,
            groups=self.groups,
            radix=self.radix,
            reduction_factor=self.reduction_factor,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
        )
        # The authors' "avd": the pooling has the stride, so that the convolution drops no pixel.
        self.avd_layer = nn.AvgPool2d(3, stride, padding=1) if pools else None


class ResNeSt(ResNetV1d):
    """`ResNetV1d` with split attention; the maps have the same channels and strides.

    Args:
        depth: 50, 101, 152 or 200.
        groups: Groups of each split, the paper's cardinality.
        base_width: Channels of each group in the first stage, if there is more than one group.
        radix: Splits of the 3x3 convolutions.
        reduction_factor: Reduction of the hidden channels of the attention.
        avg_down_stride: An average pooling after the 3x3 convolution has the stride.
    """

    variants: ClassVar[Variants] = {
        50: (SplitAttentionBottleneck, (3, 4, 6, 3)),
        101: (SplitAttentionBottleneck, (3, 4, 23, 3)),
        152: (SplitAttentionBottleneck, (3, 8, 36, 3)),
        200: (SplitAttentionBottleneck, (3, 24, 36, 3)),
    }
    conformance: ClassVar[Any] = {"depth": 50, "base_channels": 8, "stem_channels": 8, "reduction_factor": 2}

    def __init__(
        self,
        depth: Literal[50, 101, 152, 200],
        groups: PositiveInt = 1,
        base_width: PositiveInt = 4,
        radix: PositiveInt = 2,
        reduction_factor: PositiveInt = 4,
        avg_down_stride: bool = True,
        **kwargs: Unpack[ResNetArguments],
    ) -> None:
        self.block_options = {
            "groups": groups,
            "base_width": base_width,
            "base_channels": kwargs.get("base_channels", 64),
            "radix": radix,
            "reduction_factor": reduction_factor,
            "avg_down_stride": avg_down_stride,
        }
        super().__init__(depth, **kwargs)  # type: ignore[arg-type]
