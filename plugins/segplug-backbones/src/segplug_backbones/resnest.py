"""ResNeSt: residual blocks that weight splits of their channels against each other.

    backbone = ResNeSt(101, stem_channels=128, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))

ResNeSt: Split-Attention Networks, Zhang et al., 2020 (https://arxiv.org/abs/2004.08955).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.nn import RSoftmax, adaptive_avg_pool, build_conv, build_norm, kaiming_init
from segplug_backbones.residual import Bottleneck, new_conv
from segplug_backbones.resnet import ResNetArguments, ResNetV1d, Variants


class SplitAttentionConv2d(nn.Module):
    """(N, in_channels, H, W) -> (N, channels, h, w): ``radix`` convolutions, summed with weights for each channel.

    Args:
        radix: Number of splits.
        reduction_factor: The layer that decides on the weights has that many times fewer channels, 32 at least.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        **options: ``stride``, ``padding`` and ``dilation`` of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        groups: int,
        radix: int,
        reduction_factor: int,
        conv_cfg: Mapping[str, Any] | None,
        norm_cfg: Mapping[str, Any],
        **options: int,
    ) -> None:
        super().__init__()
        self.radix = radix
        inner = max(in_channels * radix // reduction_factor, 32)
        wide = channels * radix
        self.conv = new_conv(conv_cfg, in_channels, wide, kernel_size, groups=groups * radix, **options)
        self._norms = []
        for number, width in enumerate((wide, inner)):
            name, norm = build_norm(norm_cfg, width, postfix=number)
            self.add_module(name, norm)
            self._norms.append(name)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = build_conv(None, channels, inner, 1, groups=groups)
        self.fc2 = build_conv(None, inner, wide, 1, groups=groups)
        self.rsoftmax = RSoftmax(radix, groups)
        for layer in (self.fc1, self.fc2):
            kaiming_init(layer)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (getattr(self, name) for name in self._norms)
        splits = self.relu(first(self.conv(x))).unflatten(1, (self.radix, -1))
        context = adaptive_avg_pool(splits.sum(1), 1)
        context = self.relu(second(self.fc1(context)))
        weights = self.rsoftmax(self.fc2(context)).unflatten(1, (self.radix, -1))
        return (weights * splits).sum(1)


class SplitAttentionBottleneck(Bottleneck):
    """A bottleneck with `SplitAttentionConv2d`; where it strides, an average pooling can do so instead."""

    def __init__(
        self, *args: Any, radix: int = 2, reduction_factor: int = 4, avg_down_stride: bool = True, **kwargs: Any
    ) -> None:
        self.radix, self.reduction_factor, self.avg_down_stride = radix, reduction_factor, avg_down_stride
        super().__init__(*args, **kwargs)

    def _add_middle(self, stride: int, dilation: int) -> None:
        pools = self.avg_down_stride and stride > 1
        self.conv2 = SplitAttentionConv2d(
            self.width,
            self.width,
            3,
            self.groups,
            self.radix,
            self.reduction_factor,
            self._middle_cfg,
            self.norm_cfg,
            stride=1 if pools else stride,
            padding=dilation,
            dilation=dilation,
        )
        self._steps.append("conv2")
        if pools:
            self.avd_layer = nn.AvgPool2d(3, stride, padding=1)
            self._steps.append("avd_layer")


class ResNeSt(ResNetV1d):
    """`ResNetV1d` with split attention; the maps have the same channels and strides.

    Args:
        depth: 50, 101, 152 or 200.
        groups: Groups of channels inside a block.
        base_width: Channels of each group in a first stage of 64 channels, with more than one group.
        radix: Splits of the channels.
        reduction_factor: The layer that weights the splits has that many times fewer channels.
        avg_down_stride: Blocks stride by an average pooling behind their convolution.
    """

    variants: ClassVar[Variants] = {
        50: (SplitAttentionBottleneck, (3, 4, 6, 3)),
        101: (SplitAttentionBottleneck, (3, 4, 23, 3)),
        152: (SplitAttentionBottleneck, (3, 8, 36, 3)),
        200: (SplitAttentionBottleneck, (3, 24, 36, 3)),
    }
    conformance: ClassVar = {"depth": 50, "base_channels": 8, "stem_channels": 8, "reduction_factor": 2}

    def __init__(
        self,
        depth: Literal[50, 101, 152, 200],
        groups: int = 1,
        base_width: int = 4,
        radix: int = 2,
        reduction_factor: int = 4,
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
