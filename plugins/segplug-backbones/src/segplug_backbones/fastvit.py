"""FastViT: depthwise mixers without a residual connection at inference, attention only at the coarsest map.

    features = FastViT("sa12")(torch.rand(2, 3, 512, 512))  # 64, 128, 256, 512 channels at strides 4, 8, 16, 32

FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization, Vasu et al., 2023
(https://arxiv.org/abs/2303.14189). State-dict keys are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.nn import ConvModule, DropPath, LayerConfig, build_norm, linear_drop_path_rates, trunc_normal_init
from segplug_backbones.mobileone import MobileOneBlock
from segplug_backbones.reparameterize import Kernel, Reparameterizable, identity_kernel, kernel_of, merged_conv
from segplug_backbones.staged import LayerScale, StagedArguments, StagedBackbone, find_arch


@dataclass(frozen=True)
class FastViTArch:
    """A network.

    Args:
        channels: Channels of the stages.
        depths: Blocks of the stages.
        expansion: Ratio of the hidden channels.
        attention: Whether the last stage has attention; its channels are then a multiple of 32.
    """

    channels: Sequence[PositiveInt]
    depths: Sequence[PositiveInt]
    expansion: PositiveInt = 4
    attention: bool = False


ARCHS = {
    "t8": FastViTArch((48, 96, 192, 384), (2, 2, 4, 2), 3),
    "t12": FastViTArch((64, 128, 256, 512), (2, 2, 6, 2), 3),
    "s12": FastViTArch((64, 128, 256, 512), (2, 2, 6, 2)),
    "sa12": FastViTArch((64, 128, 256, 512), (2, 2, 6, 2), attention=True),
    "sa24": FastViTArch((64, 128, 256, 512), (4, 4, 12, 4), attention=True),
    "sa36": FastViTArch((64, 128, 256, 512), (6, 6, 18, 6), attention=True),
    "ma36": FastViTArch((76, 152, 304, 608), (6, 6, 18, 6), attention=True),
}
"""Table 2 of the paper."""
HEAD_CHANNELS = 32
"""Channels of a head of the attention."""


class FastViT(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    `segplug_deploy.optimize_for_inference` and exporters turn parallel branches into one convolution.

    Args:
        arch: ``t8``, ``t12``, ``s12``, ``sa12``, ``sa24``, ``sa36`` or ``ma36``, or the values of a `FastViTArch`.
        in_channels: Channels of the image.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0.
        layer_scale_init_value: Initial layer scale.
        norm_cfg: Type of the norms and its arguments.
        **kwargs: See `StagedBackbone`; the maps have strides 4, 8, 16 and 32.
    """

    conformance: ClassVar = (
        {"arch": {"channels": (8, 8, 16, 32), "depths": (1, 1, 2, 1), "expansion": 2, "attention": True}},
    )

    def __init__(
        self,
        arch: Literal["t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36"] | FastViTArch = "sa12",
        in_channels: PositiveInt = 3,
        drop_path_rate: Probability = 0.0,
        layer_scale_init_value: NonNegative = 1e-5,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        first = net.channels[0]
        stem = nn.Sequential(
            MobileOneBlock(in_channels, first, 3, 2, norm_cfg=norm_cfg, activation=nn.GELU()),
            MobileOneBlock(first, first, 3, 2, first, norm_cfg=norm_cfg, activation=nn.GELU()),
            MobileOneBlock(first, first, 1, norm_cfg=norm_cfg, activation=nn.GELU()),
        )
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(net.depths)))
        stages = []
        for i, depth in enumerate(net.depths):
            attention = net.attention and i == 3
            block = AttentionBlock if attention else RepMixerBlock
            stages.append(
                Stage(
                    Downsample(net.channels[i - 1], net.channels[i], norm_cfg) if i else nn.Identity(),
                    ConditionalPositions(net.channels[i]) if attention else nn.Identity(),
                    [
                        block(net.channels[i], net.expansion, next(rates), layer_scale_init_value, norm_cfg)
                        for _ in range(depth)
                    ],
                )
            )
        super().__init__(stem, stages, net.channels, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                trunc_normal_init(module)


class Stage(nn.Module):
    """Downsampling, position encoding and blocks."""

    def __init__(self, downsample: nn.Module, positions: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample, self.pos_emb, self.blocks = downsample, positions, nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.pos_emb(self.downsample(x)))


class Downsample(nn.Module):
    """Depthwise 7x7 convolution of stride 2 and pointwise convolution: (N, C, H, W) -> (N, D, ~H / 2, ~W / 2)."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            LargeKernelConv(in_channels, channels, norm_cfg),
            MobileOneBlock(channels, channels, 1, norm_cfg=norm_cfg, activation=nn.GELU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class LargeKernelConv(Reparameterizable):
    """Sum of a 7x7 and a 3x3 convolution of stride 2 in groups: (N, C, H, W) -> (N, D, ~H / 2, ~W / 2)."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()

        def conv(side: int) -> ConvModule:
            return ConvModule(
                in_channels,
                channels,
                side,
                stride=2,
                padding=side // 2,
                groups=in_channels,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )

        self.large_conv, self.small_conv = conv(7), conv(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.large_conv(x) + self.small_conv(x)

    def merged(self) -> nn.Conv2d:
        """Return the 7x7 convolution."""
        kernels = [kernel_of(cast(nn.Conv2d, each.conv), each.norm) for each in (self.large_conv, self.small_conv)]
        return merged_conv(cast(nn.Conv2d, self.large_conv.conv), kernels)


class RepMixerBlock(nn.Module):
    """`RepMixer` and feed-forward part with a residual connection: (N, channels, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        expansion: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.token_mixer = RepMixer(channels, layer_scale_init_value, norm_cfg)
        self.mlp = ConvFeedForward(channels, expansion, norm_cfg)
        self.layer_scale = LayerScale(channels, 1, 1, init_value=layer_scale_init_value)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        return x + self.drop_path(self.layer_scale(self.mlp(x)))


class RepMixer(Reparameterizable):
    """Depthwise mixing with a residual connection that inference does not need, equation 3 of the paper.

    (N, channels, H, W) -> the same shape.
    """

    def __init__(self, channels: int, layer_scale_init_value: float, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.norm = IdentityBranch(channels, norm_cfg)
        self.mixer = MobileOneBlock(channels, channels, 3, groups=channels, norm_cfg=norm_cfg, activation=nn.Identity())
        self.layer_scale = LayerScale(channels, 1, 1, init_value=layer_scale_init_value)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale(self.mixer(x) - self.norm(x))

    def merged(self) -> nn.Conv2d:
        """Return the depthwise 3x3 convolution."""
        conv, scale = self.mixer.single_conv(), self.layer_scale.gamma.detach().double().flatten()
        mixer, norm = kernel_of(conv), identity_kernel(conv, self.norm.identity)
        return merged_conv(conv, [identity_kernel(conv), _scaled(mixer, scale), _scaled(norm, -scale)])


class IdentityBranch(nn.Module):
    """A norm, as the branch of `MobileOneBlock` without convolutions."""

    def __init__(self, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.identity = build_norm(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.identity(x)


class ConditionalPositions(Reparameterizable):
    """Depthwise 7x7 convolution with a residual connection, a position encoding for maps of any size.

    Conditional Positional Encodings for Vision Transformers, Chu et al., 2021 (https://arxiv.org/abs/2102.10882).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pos_enc = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_enc(x)

    def merged(self) -> nn.Conv2d:
        """Return the convolution with the identity."""
        return merged_conv(self.pos_enc, [kernel_of(self.pos_enc), identity_kernel(self.pos_enc)])


class AttentionBlock(nn.Module):
    """Norm and attention, then feed-forward part, both with residual connections: (N, C, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        expansion: int,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, channels)[1]
        self.token_mixer = Attention(channels)
        self.layer_scale_1 = LayerScale(channels, 1, 1, init_value=layer_scale_init_value)
        self.mlp = ConvFeedForward(channels, expansion, norm_cfg)
        self.layer_scale_2 = LayerScale(channels, 1, 1, init_value=layer_scale_init_value)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1(self.token_mixer(self.norm(x))))
        return x + self.drop_path(self.layer_scale_2(self.mlp(x)))


class Attention(nn.Module):
    """Multi-head self-attention between all pixels: (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.qkv(x.flatten(2).transpose(1, 2)).unflatten(2, (3, -1, HEAD_CHANNELS))
        query, key, value = tokens.permute(2, 0, 3, 1, 4)  # (N, heads, H * W, HEAD_CHANNELS)
        tokens = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.proj(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class ConvFeedForward(nn.Module):
    """Depthwise 7x7 convolution, then two pointwise ones with hidden channels between: (N, C, H, W) -> the same."""

    def __init__(self, channels: int, expansion: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv = ConvModule(channels, channels, 7, padding=3, groups=channels, norm_cfg=norm_cfg, act_cfg=None)
        self.fc1 = nn.Conv2d(channels, expansion * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(expansion * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))


def _scaled(kernel: Kernel, scale: Tensor) -> Kernel:
    weight, bias = kernel
    return weight * scale.view(-1, 1, 1, 1), bias * scale
