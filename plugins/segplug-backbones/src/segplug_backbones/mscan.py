"""MSCAN, the backbone of SegNeXt: attention from multi-scale strip convolutions.

    features = mscan_tiny()(torch.rand(2, 3, 512, 512))  # 32, 64, 160, 256 channels at strides 4, 8, 16, 32

SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, Guo et al., 2022
(https://arxiv.org/abs/2209.08575).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    LayerConfig,
    build_activation,
    build_dropout,
    build_norm,
    check_per_stage,
    linear_drop_path_rates,
    nchw_to_nlc,
    nlc_to_nchw,
)
from segplug_backbones.factory import factory
from segplug_backbones.init import pvt_init
from segplug_backbones.pretrained import Pretrained

Kernel = int | Sequence[int]


class Mlp(nn.Module):
    """Feed-forward network of 1x1, depthwise 3x3 and 1x1 convolutions: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, hidden: int, act_cfg: LayerConfig, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = build_activation(act_cfg)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.dwconv(self.fc1(x))))
        return self.drop(self.fc2(x))


class StemConv(nn.Module):
    """Two 3x3 convolutions of stride 2: (N, in_channels, H, W) -> (N, out_channels, ~H / 4, ~W / 4)."""

    def __init__(self, in_channels: int, out_channels: int, act_cfg: LayerConfig, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, out_channels // 2, 3, stride=2, padding=1),
            build_norm(norm_cfg, out_channels // 2)[1],
            build_activation(act_cfg),
            nn.Conv2d(out_channels // 2, out_channels, 3, stride=2, padding=1),
            build_norm(norm_cfg, out_channels)[1],  # no activation: the first block begins with a norm
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class OverlapPatchEmbed(nn.Module):
    """A 3x3 convolution of stride 2 and a norm: (N, in_channels, H, W) -> (N, embed_dims, ~H / 2, ~W / 2)."""

    def __init__(self, in_channels: int, embed_dims: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, 3, stride=2, padding=1)
        self.norm = build_norm(norm_cfg, embed_dims)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class MSCAAttention(nn.Module):
    """Multi-scale convolutional attention, equations 1 and 2 of the paper: (N, C, H, W) -> the same shape.

    Args:
        channels: C.
        kernel_sizes: Kernel of the first depthwise convolution, then of the first strip convolution of each branch:
            (1, 7) is followed by (7, 1).
        paddings: Padding of those convolutions in pixels.
    """

    def __init__(self, channels: int, kernel_sizes: Sequence[Kernel], paddings: Sequence[Kernel]) -> None:
        super().__init__()
        self.conv0 = _depthwise(channels, kernel_sizes[0], paddings[0])
        self.num_branches = len(kernel_sizes) - 1
        for i, (size, padding) in enumerate(zip(kernel_sizes[1:], paddings[1:], strict=True)):
            self.add_module(f"conv{i}_1", _depthwise(channels, size, padding))
            self.add_module(f"conv{i}_2", _depthwise(channels, _transposed(size), _transposed(padding)))
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Equation 1 sums the branches Scale_0 to Scale_3 of the first convolution; Scale_0 is the identity.
        local = self.conv0(x)
        total = local
        for i in range(self.num_branches):
            strip1, strip2 = getattr(self, f"conv{i}_1"), getattr(self, f"conv{i}_2")
            total = total + strip2(strip1(local))
        attention = self.conv3(total)
        return attention * x  # equation 2: the map is its own gate, without softmax or sigmoid


class MSCASpatialAttention(nn.Module):
    """`MSCAAttention` between 1x1 convolutions, with a residual connection: (N, C, H, W) -> the same shape."""

    def __init__(
        self, channels: int, kernel_sizes: Sequence[Kernel], paddings: Sequence[Kernel], act_cfg: LayerConfig
    ) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = build_activation(act_cfg)
        self.spatial_gating_unit = MSCAAttention(channels, kernel_sizes, paddings)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))


class MSCABlock(nn.Module):
    """Attention and `Mlp`, each after a norm and with layer scale: (N, C, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        *,
        kernel_sizes: Sequence[Kernel],
        paddings: Sequence[Kernel],
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        act_cfg: LayerConfig,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, channels)[1]
        self.attn = MSCASpatialAttention(channels, kernel_sizes, paddings, act_cfg)
        self.drop_path = build_dropout({"type": "DropPath", "drop_prob": drop_path})
        self.norm2 = build_norm(norm_cfg, channels)[1]
        self.mlp = Mlp(channels, int(channels * mlp_ratio), act_cfg, drop)
        # 1e-2 is the authors' value for all depths, inherited from VAN.
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class MSCAN(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to the feature maps of all stages, at strides 4, 8, 16 and 32 by default.

    Odd sizes are rounded up.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of each stage.
        mlp_ratios: Hidden width of the feed-forward networks of each stage, as a multiple of its channels.
        drop_rate: Dropout rate in the feed-forward networks.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        depths: Layers of each stage.
        num_stages: Stages to build.
        attention_kernel_sizes: Side of the first convolution of the attention, then (height, width) of the first strip
            convolution of each branch.
        attention_kernel_paddings: Padding of those convolutions in pixels.
        act_cfg: Type of the activations.
        norm_cfg: Type of the norms and its arguments.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"embed_dims": (8, 8, 16, 16), "depths": (1, 2, 1, 1)}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        embed_dims: Sequence[PositiveInt] = (64, 128, 256, 512),
        mlp_ratios: Sequence[Positive] = (4, 4, 4, 4),
        drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        depths: Sequence[PositiveInt] = (3, 4, 6, 3),
        num_stages: PositiveInt = 4,
        attention_kernel_sizes: Sequence[PositiveInt | Sequence[PositiveInt]] = (5, (1, 7), (1, 11), (1, 21)),
        attention_kernel_paddings: Sequence[int | Sequence[int]] = (2, (0, 3), (0, 5), (0, 10)),
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        norm_cfg: Mapping[str, Any] = {"type": "SyncBN", "requires_grad": True},
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        check_per_stage(num_stages, {"embed_dims": embed_dims, "mlp_ratios": mlp_ratios, "depths": depths})
        if len(attention_kernel_sizes) != len(attention_kernel_paddings):
            message = f"{len(attention_kernel_paddings)} paddings for {len(attention_kernel_sizes)} convolutions"
            raise ConfigError(Problem(message, "attention_kernel_paddings"))
        self.num_stages, self.pretrained = num_stages, pretrained
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        for i, (width, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            stem = StemConv(in_channels, width, act_cfg, norm_cfg) if i == 0 else None
            self.add_module(f"patch_embed{i + 1}", stem or OverlapPatchEmbed(embed_dims[i - 1], width, norm_cfg))
            blocks = [
                MSCABlock(
                    width,
                    kernel_sizes=attention_kernel_sizes,
                    paddings=attention_kernel_paddings,
                    mlp_ratio=mlp_ratios[i],
                    drop=drop_rate,
                    drop_path=next(drop_path_rates),
                    act_cfg=act_cfg,
                    norm_cfg=norm_cfg,
                )
                for _ in range(depth)
            ]
            self.add_module(f"block{i + 1}", nn.ModuleList(blocks))
            # Over the channels of each token, although the blocks use `norm_cfg`: so the published weights have it.
            self.add_module(f"norm{i + 1}", nn.LayerNorm(width))
        self.channels = tuple(embed_dims)
        self.strides = tuple(4 * 2**i for i in range(num_stages))
        self.apply(pvt_init)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each stage, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, maps = images, []
        for i in range(1, self.num_stages + 1):
            x = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"block{i}"):
                x = block(x)
            x = nlc_to_nchw(getattr(self, f"norm{i}")(nchw_to_nlc(x)), (x.shape[2], x.shape[3]))
            maps.append(x)
        return tuple(maps)


VARIANTS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "tiny": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "small": ((64, 128, 320, 512), (2, 2, 4, 2)),
    "base": ((64, 128, 320, 512), (3, 3, 12, 3)),
    "large": ((64, 128, 320, 512), (3, 5, 27, 3)),
}
"""Table 2 of the paper: channels and layers of each stage."""


@factory
def mscan_tiny(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MSCAN:
    """MSCAN-T, 3.9 M parameters."""
    return _variant("tiny", in_channels, drop_path_rate, pretrained)


@factory
def mscan_small(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MSCAN:
    """MSCAN-S, 13.5 M parameters."""
    return _variant("small", in_channels, drop_path_rate, pretrained)


@factory
def mscan_base(in_channels: int = 3, drop_path_rate: float = 0.1, pretrained: str | None = None) -> MSCAN:
    """MSCAN-B, 26.3 M parameters."""
    return _variant("base", in_channels, drop_path_rate, pretrained)


@factory
def mscan_large(in_channels: int = 3, drop_path_rate: float = 0.3, pretrained: str | None = None) -> MSCAN:
    """MSCAN-L, 44.6 M parameters."""
    return _variant("large", in_channels, drop_path_rate, pretrained)


def _variant(name: str, in_channels: int, drop_path_rate: float, pretrained: str | None) -> MSCAN:
    embed_dims, depths = VARIANTS[name]
    return MSCAN(
        in_channels,
        embed_dims=embed_dims,
        mlp_ratios=(8, 8, 4, 4),
        depths=depths,
        drop_path_rate=drop_path_rate,
        pretrained=pretrained,
    )


def _depthwise(channels: int, size: Kernel, padding: Kernel) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, _pair(size), padding=_pair(padding), groups=channels)


def _transposed(size: Kernel) -> Kernel:
    """Return (width, height) of (height, width)."""
    height, width = _pair(size)
    return width, height


def _pair(size: Kernel) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
