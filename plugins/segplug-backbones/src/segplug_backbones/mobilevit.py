"""MobileViT: inverted residuals, with transformers in the last three stages that let all patches see each other.

    features = MobileViT("small", out_indices=(1, 2, 3, 4))(torch.rand(2, 3, 512, 512))  # strides 4, 8, 16, 32

MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer, Mehta and Rastegari, 2022
(https://arxiv.org/abs/2110.02178). State-dict keys are timm's. The published weights expect BGR images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.geometry import Size
from segkernel.nn import ConvModule, LayerConfig, build_activation, resize
from segplug_backbones.adapters import Adapter
from segplug_backbones.squeeze import make_divisible
from segplug_backbones.staged import StagedBackbone

Arch = Literal["xx_small", "x_small", "small"]
OutputStride = Literal[8, 16, 32]


class MobileViTArch(TypedDict):
    """Sizes of a MobileViT.

    Args:
        channels: Of the stem and the five stages.
        dims: Channels of the tokens in the last three stages.
        expand_ratio: Hidden channels of the inverted residuals, as a multiple of their input's.
    """

    channels: Sequence[PositiveInt]
    dims: Sequence[PositiveInt]
    expand_ratio: Positive


ARCHS: dict[str, MobileViTArch] = {
    "xx_small": {"channels": (16, 16, 24, 48, 64, 80), "dims": (64, 80, 96), "expand_ratio": 2},
    "x_small": {"channels": (16, 32, 48, 64, 80, 96), "dims": (96, 120, 144), "expand_ratio": 4},
    "small": {"channels": (16, 32, 64, 96, 128, 160), "dims": (144, 192, 240), "expand_ratio": 4},
}
"""Table 4 of the paper."""
DEPTHS = (1, 3, 2, 4, 3)
"""Inverted residuals of the first two stages, transformer layers of the others."""


class Bottleneck(nn.Module):
    """Inverted residual: (N, in_channels, H, W) -> (N, out_channels, ~H / stride, ~W / stride).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Stride of the depthwise convolution; 1 with unchanged channels adds a residual connection.
        expand_ratio: Hidden channels, as a multiple of ``in_channels``, rounded to a multiple of 8.
        dilation: Dilation of the depthwise convolution.
        layers: ``norm_cfg`` and ``act_cfg``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        expand_ratio: float,
        dilation: int,
        layers: Mapping[str, Any],
    ) -> None:
        super().__init__()
        hidden = make_divisible(round(in_channels * expand_ratio), 8)
        self.conv1_1x1 = ConvModule(in_channels, hidden, 1, **layers)
        self.conv2_kxk = ConvModule(
            hidden, hidden, 3, stride=stride, padding=dilation, dilation=dilation, groups=hidden, **layers
        )
        self.conv3_1x1 = ConvModule(hidden, out_channels, 1, **{**layers, "act_cfg": None})
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + out if self.has_residual else out


class Attention(nn.Module):
    """Multi-head self-attention: (N, L, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int, attn_drop_rate: float) -> None:
        super().__init__()
        self.num_heads, self.attn_drop_rate = num_heads, attn_drop_rate
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop_rate if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.proj(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers: (N, L, C) -> the same shape."""

    def __init__(self, dim: int, hidden: int, drop_rate: float, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = build_activation(act_cfg)
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network, each after a norm: (N, L, C) -> the same shape."""

    def __init__(
        self, dim: int, num_heads: int, hidden: int, drop_rate: float, attn_drop_rate: float, act_cfg: LayerConfig
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, attn_drop_rate)
        self.mlp = FeedForward(dim, hidden, drop_rate, act_cfg)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class MobileViTBlock(nn.Module):
    """A convolution sees near pixels, a transformer all pixels at the same place of a patch: (N, C, H, W) -> the same.

    Args:
        channels: C.
        dim: Channels of the tokens.
        depth: Transformer layers.
        num_heads: Attention heads of each layer.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of ``dim``.
        patch_size: Side of a patch in pixels of the map.
        kernel_size: Side of the convolutions.
        drop_rate: Dropout rate in the layers.
        attn_drop_rate: Dropout rate of the attention weights.
        layers: ``norm_cfg`` and ``act_cfg``.
    """

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        kernel_size: int,
        drop_rate: float,
        attn_drop_rate: float,
        layers: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.patch_size, act_cfg = patch_size, layers["act_cfg"]
        self.conv_kxk = ConvModule(channels, channels, kernel_size, padding=kernel_size // 2, **layers)
        self.conv_1x1 = nn.Conv2d(channels, dim, 1, bias=False)
        hidden = int(dim * mlp_ratio)
        self.transformer = nn.Sequential(
            *(TransformerLayer(dim, num_heads, hidden, drop_rate, attn_drop_rate, act_cfg) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_proj = ConvModule(dim, channels, 1, **layers)
        self.conv_fusion = ConvModule(2 * channels, channels, kernel_size, padding=kernel_size // 2, **layers)

    def forward(self, x: Tensor) -> Tensor:
        local = whole_patches(self.conv_1x1(self.conv_kxk(x)), self.patch_size)
        tokens = unfold(local, self.patch_size)  # (N, P, L, C): equation 1 attends over L at each of P pixels
        batch = tokens.shape[0]
        tokens = self.norm(self.transformer(tokens.flatten(0, 1))).unflatten(0, (batch, -1))
        folded = fold(tokens, (local.shape[2], local.shape[3]), self.patch_size)
        return self.conv_fusion(torch.cat([x, self.conv_proj(resize(folded, x.shape[2:]))], 1))


class MobileViT(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 2, 4, 8, 16, 32.

    Odd sizes are rounded up.

    Args:
        arch: A name, or ``{channels, dims, expand_ratio}``.
        in_channels: Channels of the image.
        output_stride: Largest stride; stages beyond it have dilated convolutions instead.
        out_indices: The stages to return, counted from 0.
        patch_size: Side of a patch, in pixels of a map.
        num_heads: Attention heads of each layer.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of a token.
        kernel_size: Side of the convolutions before and after the transformers.
        drop_rate: Dropout rate in the transformer layers.
        attn_drop_rate: Dropout rate of the attention weights.
        norm_cfg: Type of the norms after convolutions and its arguments.
        act_cfg: Type of the activations.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = (
        {"arch": "xx_small", "out_indices": (1, 2, 3, 4)},
        {"arch": {"channels": (8, 8, 8, 8, 8, 16), "dims": (8, 8, 8), "expand_ratio": 2}, "output_stride": 8},
    )

    def __init__(
        self,
        arch: Arch | MobileViTArch = "small",
        in_channels: PositiveInt = 3,
        output_stride: OutputStride = 32,
        out_indices: Sequence[int] = (0, 1, 2, 3, 4),
        patch_size: PositiveInt = 2,
        num_heads: PositiveInt = 4,
        mlp_ratio: Positive = 2.0,
        kernel_size: PositiveInt = 3,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "SiLU"},
        pretrained: str | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        channels, ratio = sizes["channels"], sizes["expand_ratio"]
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        stem = ConvModule(in_channels, channels[0], 3, stride=2, padding=1, **layers)
        stages: list[nn.Module] = []
        strides = strides_and_dilations(output_stride)
        for i, (depth, (stride, dilation)) in enumerate(zip(DEPTHS, strides)):
            first, width = channels[i], channels[i + 1]
            options: dict[str, Any] = {"expand_ratio": ratio, "dilation": dilation, "layers": layers}
            blocks: list[nn.Module] = [Bottleneck(first, width, stride=stride, **options)]
            if i < 2:
                blocks += [Bottleneck(width, width, stride=1, **options) for _ in range(depth - 1)]
            else:
                transformer = MobileViTBlock(
                    width,
                    dim=sizes["dims"][i - 2],
                    depth=depth,
                    num_heads=num_heads,
                    mlp_ratio=mlp_ratio,
                    patch_size=patch_size,
                    kernel_size=kernel_size,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    layers=layers,
                )
                blocks.append(transformer)
            stages.append(nn.Sequential(*blocks))
        super().__init__(stem, stages, channels[1:], 2, out_indices, pretrained=pretrained)
        self.adapt = adapt
        self.strides = tuple(min(2 ** (i + 1), output_stride) for i in self.out_indices)


def strides_and_dilations(output_stride: int) -> list[tuple[int, int]]:
    """Return the stride of the first convolution of each stage, and its dilation: that of the stage before it."""
    found, dilation = [(1, 1), (2, 1), (2, 1)], 1
    for stride in (16, 32):
        if stride <= output_stride:
            found.append((2, 1))
        else:
            found.append((1, dilation))
            dilation *= 2
    return found


def whole_patches(x: Tensor, patch_size: int) -> Tensor:
    """Return a map resized to the next size of whole patches."""
    height, width = (-(-side // patch_size) * patch_size for side in x.shape[2:])
    return resize(x, (height, width))


def unfold(x: Tensor, patch_size: int) -> Tensor:
    """Return (N, C, H, W) as (N, P, L, C): P pixels of each of L patches."""
    patches = x.unflatten(2, (-1, patch_size)).unflatten(4, (-1, patch_size))  # (N, C, rows, p, columns, p)
    return patches.permute(0, 3, 5, 2, 4, 1).flatten(3, 4).flatten(1, 2)


def fold(tokens: Tensor, size: Size, patch_size: int) -> Tensor:
    """Return (N, P, L, C) as (N, C, H, W), the inverse of `unfold`."""
    rows = size[0] // patch_size
    patches = tokens.unflatten(1, (patch_size, patch_size)).unflatten(3, (rows, -1))
    return patches.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)
