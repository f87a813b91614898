"""RepViT: a mobile convolutional network built as a light vision transformer: token mixer, then channel mixer.

    features = RepViT("m0_9")(torch.rand(2, 3, 512, 512))  # 48, 96, 192, 384 channels at strides 4, 8, 16, 32

RepViT: Revisiting Mobile CNN From ViT Perspective, Wang et al., 2023 (https://arxiv.org/abs/2307.09283).
State-dict keys are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt, Probability
from segkernel.nn import DropPath, LayerConfig, build_norm, linear_drop_path_rates, trunc_normal_init
from segplug_backbones.mobileone import SqueezeExcite
from segplug_backbones.reparameterize import Kernel, Reparameterizable, identity_kernel, kernel_of, merged_conv
from segplug_backbones.staged import StagedArguments, StagedBackbone, find_arch


@dataclass(frozen=True)
class RepViTArch:
    """A network.

    Args:
        channels: Channels of the stages.
        depths: Blocks of the stages.
        first: The 1x1 convolution of a token mixer has a norm, not the sum: the first version of the paper.
    """

    channels: Sequence[PositiveInt]
    depths: Sequence[PositiveInt]
    first: bool = False


ARCHS = {
    "m0_9": RepViTArch((48, 96, 192, 384), (2, 2, 14, 2)),
    "m1_0": RepViTArch((56, 112, 224, 448), (2, 2, 14, 2)),
    "m1_1": RepViTArch((64, 128, 256, 512), (2, 2, 12, 2)),
    "m1_5": RepViTArch((64, 128, 256, 512), (4, 4, 24, 4)),
    "m2_3": RepViTArch((80, 160, 320, 640), (6, 6, 34, 2)),
    "m1": RepViTArch((48, 96, 192, 384), (2, 2, 14, 2), first=True),
    "m2": RepViTArch((64, 128, 256, 512), (2, 2, 12, 2), first=True),
    "m3": RepViTArch((64, 128, 256, 512), (4, 4, 18, 2), first=True),
}
"""Published networks: m0_9 to m2_3 of the last version of the paper, m1 to m3 of the first one."""


class RepViT(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    `segplug_deploy.optimize_for_inference` and exporters turn every token mixer into one convolution.

    Args:
        arch: The published name, or the values of a `RepViTArch`.
        in_channels: Channels of the image.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0. The published networks have none.
        norm_cfg: Type of the norms and its arguments.
        **kwargs: See `StagedBackbone`; the maps have strides 4, 8, 16 and 32.
    """

    conformance: ClassVar = (
        {"arch": {"channels": (8, 8, 16, 16), "depths": (1, 1, 2, 1)}},
        {"arch": {"channels": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "first": True}, "out_indices": (0, 3)},
    )

    def __init__(
        self,
        arch: Literal["m0_9", "m1_0", "m1_1", "m1_5", "m2_3", "m1", "m2", "m3"] | RepViTArch = "m0_9",
        in_channels: PositiveInt = 3,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        channels, depths, first = net.channels, net.depths, net.first
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        stages = [
            Stage(
                channels[max(i - 1, 0)],
                channels[i],
                downsample=i > 0,
                first=first,
                drop_path_rates=[next(rates) for _ in range(depths[i])],
                norm_cfg=norm_cfg,
            )
            for i in range(4)
        ]
        super().__init__(Stem(in_channels, channels[0], norm_cfg), stages, channels, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                trunc_normal_init(module)


class Stem(nn.Module):
    """Two strided 3x3 convolutions: (N, C, H, W) -> (N, channels, ~H / 4, ~W / 4)."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels // 2, 3, stride=2, norm_cfg=norm_cfg)
        self.act1 = nn.GELU()
        self.conv2 = ConvNorm(channels // 2, channels, 3, stride=2, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act1(self.conv1(x)))


class Stage(nn.Module):
    """Blocks, every other one with squeeze-and-excitation, after a `Downsample`."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        downsample: bool,
        first: bool,
        drop_path_rates: list[float],
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.downsample = Downsample(in_channels, channels, first, norm_cfg) if downsample else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                Block(channels, with_se=i % 2 == 0, first=first, drop_path_rate=rate, norm_cfg=norm_cfg)
                for i, rate in enumerate(drop_path_rates)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Downsample(nn.Module):
    """Block, strided depthwise and pointwise convolution, feed-forward part: (N, C, H, W) -> (N, D, ~H / 2, ~W / 2)."""

    def __init__(self, in_channels: int, channels: int, first: bool, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.pre_block = Block(in_channels, with_se=False, first=first, drop_path_rate=0.0, norm_cfg=norm_cfg)
        self.spatial_downsample = ConvNorm(in_channels, in_channels, 3, stride=2, groups=in_channels, norm_cfg=norm_cfg)
        self.channel_downsample = ConvNorm(in_channels, channels, 1, norm_cfg=norm_cfg)
        self.ffn = FeedForward(channels, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel_downsample(self.spatial_downsample(self.pre_block(x)))
        return x + self.ffn(x)


class Block(nn.Module):
    """Token mixer, squeeze-and-excitation, channel mixer with a residual connection; figure 3 of the paper."""

    def __init__(
        self, channels: int, *, with_se: bool, first: bool, drop_path_rate: float, norm_cfg: LayerConfig
    ) -> None:
        super().__init__()
        self.token_mixer = RepVGGDepthwise(channels, first, norm_cfg)
        self.se = SqueezeExcite(channels, 0.25) if with_se else nn.Identity()
        self.channel_mixer = FeedForward(channels, norm_cfg)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se(self.token_mixer(x))
        return x + self.drop_path(self.channel_mixer(x))


class RepVGGDepthwise(Reparameterizable):
    """Sum of a depthwise 3x3 and 1x1 convolution and the identity: (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the map.
        first: The 1x1 convolution has a norm; otherwise the sum has one.
        norm_cfg: Type of the norms.
    """

    def __init__(self, channels: int, first: bool, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=channels, norm_cfg=norm_cfg)
        self.conv1: ConvNorm | nn.Conv2d
        if first:
            self.conv1 = ConvNorm(channels, channels, 1, groups=channels, norm_cfg=norm_cfg)
            self.bn: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
            self.bn = build_norm(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x) + self.conv1(x) + x)

    def merged(self) -> nn.Conv2d:
        """Return the depthwise 3x3 convolution."""
        small = self.conv1.kernel() if isinstance(self.conv1, ConvNorm) else kernel_of(self.conv1)
        conv = merged_conv(self.conv.c, [self.conv.kernel(), small, identity_kernel(self.conv.c)])
        return conv if isinstance(self.bn, nn.Identity) else merged_conv(conv, [kernel_of(conv, self.bn)])


class FeedForward(nn.Module):
    """Two pointwise convolutions with twice the channels between them: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, 2 * channels, 1, norm_cfg=norm_cfg)
        self.act = nn.GELU()
        self.conv2 = ConvNorm(2 * channels, channels, 1, norm_cfg=norm_cfg)
        # With zeros a residual branch starts as none.
        if isinstance(self.conv2.bn.weight, Tensor):
            nn.init.zeros_(self.conv2.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act(self.conv1(x)))


class ConvNorm(nn.Module):
    """Convolution and norm with the authors' names, ``c`` and ``bn``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.bn = build_norm(norm_cfg, out_channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))

    def kernel(self) -> Kernel:
        """Return the kernel of both."""
        return kernel_of(self.c, self.bn)
