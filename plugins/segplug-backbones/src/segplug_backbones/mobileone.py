"""MobileOne: depthwise separable convolutions with parallel branches in training, a plain chain for inference.

    features = MobileOne("s0", out_indices=(1, 2, 3, 4))(torch.rand(2, 3, 512, 512))
    # 48, 128, 256, 1024 channels at strides 4, 8, 16, 32

MobileOne: An Improved One Millisecond Mobile Backbone, Vasu et al., 2022 (https://arxiv.org/abs/2206.04040).
State-dict keys are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import NonNegativeInt, PositiveInt
from segkernel.nn import ConvModule, LayerConfig, adaptive_avg_pool, build_norm
from segplug_backbones.reparameterize import Reparameterizable, identity_kernel, kernel_of, merged_conv
from segplug_backbones.squeeze import make_divisible
from segplug_backbones.staged import StagedArguments, StagedBackbone, find_arch


@dataclass(frozen=True)
class MobileOneArch:
    """A network.

    Args:
        channels: Channels of the stages.
        branches: Convolutions in a block beside the 1x1 convolution and the identity.
        with_se: Blocks with squeeze-and-excitation at the end of each stage.
        depths: Blocks of the stages, each a depthwise and a pointwise one.
    """

    channels: Sequence[PositiveInt]
    branches: PositiveInt = 1
    with_se: Sequence[NonNegativeInt] = (0, 0, 0, 0)
    depths: Sequence[PositiveInt] = (2, 8, 10, 1)


ARCHS = {
    "s0": MobileOneArch((48, 128, 256, 1024), branches=4),
    "s1": MobileOneArch((96, 192, 512, 1280)),
    "s2": MobileOneArch((96, 256, 640, 2048)),
    "s3": MobileOneArch((128, 320, 768, 2048)),
    "s4": MobileOneArch((192, 448, 896, 2048), with_se=(0, 0, 5, 1)),
}
"""Tables 2 and 3 of the paper."""


class MobileOne(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    `segplug_deploy.optimize_for_inference` and exporters turn every block into one convolution.

    Args:
        arch: ``s0`` to ``s4``, or the values of a `MobileOneArch`.
        in_channels: Channels of the image.
        norm_cfg: Type of the norms and its arguments.
        **kwargs: See `StagedBackbone`; the maps have strides 2, 4, 8, 16 and 32, 0 is that of the stem.
    """

    conformance: ClassVar = (
        {
            "arch": {"channels": (8, 8, 16, 16), "branches": 2, "with_se": (0, 0, 1, 1), "depths": (1, 2, 1, 1)},
            "out_indices": (0, 1, 2, 3, 4),
        },
    )

    def __init__(
        self,
        arch: Literal["s0", "s1", "s2", "s3", "s4"] | MobileOneArch = "s0",
        in_channels: PositiveInt = 3,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        # The first block is not wider than 64 channels.
        widths = [min(64, net.channels[0]), *net.channels]
        stages = []
        for i, depth in enumerate(net.depths):
            blocks: list[nn.Module] = []
            for j in range(depth):
                channels, out_channels = widths[i] if j == 0 else widths[i + 1], widths[i + 1]
                with_se = j >= depth - net.with_se[i]
                stride = 2 if j == 0 else 1
                depthwise = MobileOneBlock(
                    channels, channels, 3, stride, channels, net.branches, with_se=with_se, norm_cfg=norm_cfg
                )
                pointwise = MobileOneBlock(
                    channels, out_channels, 1, branches=net.branches, with_se=with_se, norm_cfg=norm_cfg
                )
                blocks += [depthwise, pointwise]
            stages.append(nn.Sequential(*blocks))
        stem = MobileOneBlock(in_channels, widths[0], 3, 2, norm_cfg=norm_cfg)
        kwargs.setdefault("out_indices", (1, 2, 3, 4))
        super().__init__(stem, stages, widths, 2, **kwargs)


class MobileOneBlock(Reparameterizable):
    """Sum of convolutions of one size, a 1x1 one and the identity, each with a norm; then attention and activation.

    (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride); figure 3 of the paper.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the kernels; 1 has no further 1x1 convolution.
        stride: Stride; the identity is there for 1, if the number of channels stays.
        groups: Groups of the convolutions.
        branches: Convolutions of ``kernel_size``.
        with_se: Whether channels are weighted by squeeze-and-excitation.
        norm_cfg: Type of the norms.
        activation: The activation; None is ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        branches: int = 1,
        *,
        with_se: bool = False,
        norm_cfg: LayerConfig,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.identity = None
        if in_channels == out_channels and stride == 1:
            self.identity = build_norm(norm_cfg, out_channels)[1]

        def conv(side: int) -> ConvModule:
            return ConvModule(
                in_channels,
                out_channels,
                side,
                stride=stride,
                padding=side // 2,
                groups=groups,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )

        self.conv_kxk = nn.ModuleList([conv(kernel_size) for _ in range(branches)])
        self.conv_scale = conv(1) if kernel_size > 1 else None
        self.attn = SqueezeExcite(out_channels) if with_se else None
        self.act = nn.ReLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch(x) for branch in self._branches()]
        y = branches[0]
        for branch in branches[1:]:
            y = y + branch
        return self.act(y if self.attn is None else self.attn(y))

    def _branches(self) -> list[nn.Module]:
        optional = (self.conv_scale, self.identity)
        return [*(each for each in optional if each is not None), *self.conv_kxk]

    def merged(self) -> nn.Sequential:
        """Return one convolution, with attention and activation."""
        return nn.Sequential(self.single_conv(), *([] if self.attn is None else [self.attn]), self.act)

    def single_conv(self) -> nn.Conv2d:
        """Return the convolution that sums all branches."""
        convs = [conv for conv in (*self.conv_kxk, self.conv_scale) if isinstance(conv, ConvModule)]
        largest = cast(nn.Conv2d, convs[0].conv)
        kernels = [kernel_of(cast(nn.Conv2d, each.conv), each.norm) for each in convs]
        if self.identity is not None:
            kernels.append(identity_kernel(largest, self.identity))
        return merged_conv(largest, kernels)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation with timm's names, `fc1` and `fc2`: (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the map.
        ratio: Ratio of the hidden channels, which are rounded to a multiple of ``divisor``.
        divisor: The hidden channels are a multiple of this.
    """

    def __init__(self, channels: int, ratio: float = 1 / 16, divisor: int = 8) -> None:
        super().__init__()
        hidden = make_divisible(channels * ratio, divisor, min_ratio=0.0)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.act(self.fc1(adaptive_avg_pool(x, 1)))).sigmoid()
