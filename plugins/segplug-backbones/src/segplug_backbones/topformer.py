"""TopFormer: a transformer on the pooled maps of a mobile network, whose semantics are injected into each of them.

    features = TopFormer("base")(torch.rand(2, 3, 512, 512))  # three maps of 256 channels at strides 8, 16, 32

TopFormer: Token Pyramid Transformer for Mobile Semantic Segmentation, Zhang et al., 2022
(https://arxiv.org/abs/2204.05525).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    ConvModule,
    DropPath,
    LayerConfig,
    adaptive_avg_pool,
    build_norm,
    linear_drop_path_rates,
    resize,
)
from segplug_backbones.pretrained import Pretrained

Row = Sequence[PositiveInt]
"""Kernel size, expansion ratio, channels and stride of an inverted residual."""


class TopFormerArch(TypedDict):
    """A custom architecture.

    Args:
        cfgs: Kernel size, expansion ratio, channels and stride of each inverted residual.
        out_indices: Inverted residuals whose maps are the token pyramid, counted from 0.
        num_heads: Attention heads.
        out_channels: Channels of the outputs.
    """

    cfgs: Sequence[Row]
    out_indices: Sequence[NonNegativeInt]
    num_heads: PositiveInt
    out_channels: PositiveInt


def _arch(widths: Sequence[int], last: Sequence[Row], num_heads: int, out_channels: int) -> TopFormerArch:
    """Return an architecture whose first seven rows have these four widths, as all of the paper have."""
    first, second, third, fourth = widths
    cfgs: list[Row] = [(3, 1, first, 1), (3, 4, second, 2), (3, 3, second, 1), (5, 3, third, 2), (5, 3, third, 1)]
    cfgs += [(3, 3, fourth, 2), (3, 3, fourth, 1), *last]
    return TopFormerArch(
        cfgs=cfgs, out_indices=(2, 4, 6, len(cfgs) - 1), num_heads=num_heads, out_channels=out_channels
    )


ARCHS: dict[str, TopFormerArch] = {
    "tiny": _arch((16, 16, 32, 64), [(5, 6, 96, 2), (5, 6, 96, 1)], 4, 128),
    "small": _arch((16, 24, 48, 96), [(5, 6, 128, 2), (5, 6, 128, 1), (3, 6, 128, 1)], 6, 192),
    "base": _arch((16, 32, 64, 128), [(5, 6, 160, 2), (5, 6, 160, 1), (3, 6, 160, 1)], 8, 256),
}
"""Table 7 of the paper."""
Arch = Literal["tiny", "small", "base"]


class ConvBN(nn.Sequential):
    """A convolution without bias and a norm, under the names of LeViT."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        norm_cfg: LayerConfig,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.c = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = build_norm(norm_cfg, out_channels)[1]


class InvertedResidual(nn.Module):
    """The block of MobileNetV2, under the names of the authors' code.

    Args:
        in_channels: Channels of the input.
        row: Kernel size, expansion ratio, channels of the output and stride.
        norm_cfg: Type of the norms.
    """

    def __init__(self, in_channels: int, row: Row, norm_cfg: LayerConfig) -> None:
        super().__init__()
        kernel_size, ratio, out_channels, stride = row
        hidden = in_channels * ratio
        expand = [ConvBN(in_channels, hidden, norm_cfg=norm_cfg), nn.ReLU()] if ratio != 1 else []
        self.conv = nn.Sequential(
            *expand,
            ConvBN(hidden, hidden, kernel_size, norm_cfg=norm_cfg, stride=stride, groups=hidden),
            nn.ReLU(),
            ConvBN(hidden, out_channels, norm_cfg=norm_cfg),
        )
        self.has_identity = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_identity else self.conv(x)


class MLP(nn.Module):
    """Two 1x1 convolutions with a depthwise one between them, on (N, C, H, W).

    Args:
        channels: C.
        hidden_channels: Channels of the depthwise convolution.
        norm_cfg: Type of the norms.
    """

    def __init__(self, channels: int, hidden_channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.fc1 = ConvBN(channels, hidden_channels, norm_cfg=norm_cfg)
        self.dwconv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels)
        self.act = nn.ReLU6()
        self.fc2 = ConvBN(hidden_channels, channels, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class Attention(nn.Module):
    """Self-attention of all pixels, (N, C, H, W) -> the same shape; as in the authors' code, logits are not scaled.

    Args:
        channels: C.
        key_dim: Channels of the queries and keys of a head; values have twice as many.
        num_heads: Attention heads.
        norm_cfg: Type of the norms.
    """

    def __init__(self, channels: int, key_dim: int, num_heads: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = ConvBN(channels, key_dim * num_heads, norm_cfg=norm_cfg)
        self.to_k = ConvBN(channels, key_dim * num_heads, norm_cfg=norm_cfg)
        self.to_v = ConvBN(channels, 2 * key_dim * num_heads, norm_cfg=norm_cfg)
        self.proj = nn.Sequential(nn.ReLU6(), ConvBN(2 * key_dim * num_heads, channels, norm_cfg=norm_cfg))

    def forward(self, x: Tensor) -> Tensor:
        maps = (self.to_q(x), self.to_k(x), self.to_v(x))
        q, k, v = (y.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3) for y in maps)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.proj(attended.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))


class TransformerBlock(nn.Module):
    """Attention and `MLP`, each with a residual connection, on (N, C, H, W)."""

    def __init__(self, attention: nn.Module, mlp: MLP, drop_path_rate: float) -> None:
        super().__init__()
        self.attn, self.mlp, self.drop_path = attention, mlp, DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


class TransformerStage(nn.Module):
    """`TransformerBlock` after another."""

    def __init__(self, blocks: Sequence[TransformerBlock]) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.transformer_blocks:
            x = block(x)
        return x


class TokenPyramid(nn.Module):
    """Images (N, in_channels, H, W) to the maps of inverted residuals, section 3.1 of the paper."""

    def __init__(
        self, in_channels: int, rows: Sequence[Row], out_indices: Sequence[int], norm_cfg: LayerConfig
    ) -> None:
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.stem = nn.Sequential(ConvBN(in_channels, 16, 3, norm_cfg=norm_cfg, stride=2), nn.ReLU())
        widths = [16, *(row[2] for row in rows)]
        for i, row in enumerate(rows):
            self.add_module(f"layer{i + 1}", InvertedResidual(widths[i], row, norm_cfg))
        self.depth = len(rows)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
            if i in self.out_indices:
                maps.append(x)
        return maps


class SemanticInjection(nn.Module):
    """Weigh a map by the transformer's tokens, and add them, section 3.3 of the paper.

    (N, C, H, W) and (N, C, h, w) -> (N, D, H, W).

    Args:
        in_channels: C.
        out_channels: D.
        norm_cfg: Type of the norms.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.local_embedding, self.global_embedding, self.global_act = (
            ConvModule(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for _ in range(3)
        )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        weight = resize(F.hardsigmoid(self.global_act(tokens)), size)
        return self.local_embedding(x) * weight + resize(self.global_embedding(tokens), size)


class TopFormer(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to three maps at strides 8, 16 and 32, by default.

    Sizes that are not divisible by a stride are rounded up.

    Args:
        arch: A name, or ``{cfgs, out_indices, num_heads, out_channels}``.
        in_channels: Channels of the image.
        decode_out_indices: Maps of the token pyramid to return, counted from 0.
        depths: Transformer blocks.
        key_dim: Channels of the queries and keys of a head.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the tokens' channels.
        c2t_stride: Stride of the tokens relative to the coarsest map of the pyramid.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        norm_cfg: Type of the norms and its arguments.
        pretrained: Weights to load: a file, an address, or a known name.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = {
        "arch": {
            "cfgs": [[3, 1, 8, 2], [3, 2, 8, 1], [5, 2, 16, 2], [3, 2, 16, 2]],
            "out_indices": [1, 2, 3],
            "num_heads": 2,
            "out_channels": 8,
        },
        "decode_out_indices": [0, 1, 2],
        "depths": 1,
    }

    def __init__(
        self,
        arch: Arch | TopFormerArch = "base",
        in_channels: PositiveInt = 3,
        decode_out_indices: Sequence[int] = (1, 2, 3),
        depths: PositiveInt = 4,
        key_dim: PositiveInt = 16,
        mlp_ratio: Positive = 2,
        c2t_stride: PositiveInt = 2,
        drop_path_rate: Probability = 0.1,
        norm_cfg: Mapping[str, Any] = {"type": "BN", "requires_grad": True},
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        rows, indices = sizes["cfgs"], sorted(sizes["out_indices"])
        if any(len(row) != 4 for row in rows) or max(indices, default=0) >= len(rows):
            raise ConfigError(Problem("four numbers for each block, and indices of them", "arch.cfgs"))
        if any(not 0 <= i < len(indices) for i in decode_out_indices):
            raise ConfigError(
                Problem(f"the token pyramid has {len(indices)} maps, counted from 0", "decode_out_indices")
            )
        self.pretrained, self.c2t_stride = pretrained, c2t_stride
        self.decode_out_indices = tuple(decode_out_indices)
        self.widths = [rows[i][2] for i in indices]
        width = sum(self.widths)
        self.tpm = TokenPyramid(in_channels, rows, indices, norm_cfg)
        self.trans = TransformerStage(
            [
                TransformerBlock(
                    Attention(width, key_dim, sizes["num_heads"], norm_cfg),
                    MLP(width, int(mlp_ratio * width), norm_cfg),
                    rate,
                )
                for rate in linear_drop_path_rates(drop_path_rate, depths)
            ]
        )
        self.SIM = nn.ModuleList(
            SemanticInjection(channels, sizes["out_channels"], norm_cfg)
            if i in self.decode_out_indices
            else nn.Identity()
            for i, channels in enumerate(self.widths)
        )
        strides = [2]
        for row in rows:
            strides.append(strides[-1] * row[3])
        self.channels = (sizes["out_channels"],) * len(self.decode_out_indices)
        self.strides = tuple(strides[indices[i] + 1] for i in self.decode_out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps, (N, out_channels, ~H / strides[i], ~W / strides[i])."""
        pyramid = self.tpm(images)
        height, width = ((side - 1) // self.c2t_stride + 1 for side in pyramid[-1].shape[2:])
        tokens = torch.cat([adaptive_avg_pool(x, (height, width)) for x in pyramid], 1)
        parts = self.trans(tokens).split(self.widths, 1)
        return tuple(self.SIM[i](pyramid[i], parts[i]) for i in self.decode_out_indices)
