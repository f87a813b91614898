"""AFFormer: no decoder, but prototypes that learn global context, restored to the pixels, with filters of frequencies.

    features = AFFormer("base")(torch.rand(2, 3, 512, 512))  # 96, 176, 216, 216 channels at strides 4, 8, 8, 8

Head-Free Lightweight Semantic Segmentation with Linear Transformer, Dong et al., 2023
(https://arxiv.org/abs/2301.04648).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    DropPath,
    LayerConfig,
    adaptive_avg_pool,
    build_norm,
    check_out_indices,
    linear_drop_path_rates,
    nchw_to_nlc,
    nlc_to_nchw,
    resize,
)
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.windows import Size

NORM_EPS = 1e-6
HIGH_PASS = ((3, 2), (5, 3), (7, 3))
"""Kernel size of the filters, and how many of eight heads have it."""
LOW_PASS = (1, 2, 3, 6)
"""Sides of the pooled maps, each of a quarter of the channels."""
NUM_HEADS = 8


class AFFormerArch(TypedDict):
    """A custom architecture: channels of the four stages, and their blocks; the first stage has none."""

    embed_dims: Sequence[PositiveInt]
    depths: Sequence[PositiveInt]


ARCHS: dict[str, AFFormerArch] = {
    "tiny": AFFormerArch(embed_dims=(32, 64, 160, 216), depths=(1, 2, 4, 2)),
    "small": AFFormerArch(embed_dims=(32, 64, 176, 216), depths=(1, 2, 4, 2)),
    "base": AFFormerArch(embed_dims=(32, 96, 176, 216), depths=(1, 2, 6, 2)),
}
"""Table 1 of the paper."""
Arch = Literal["tiny", "small", "base"]


class ConvNorm(nn.Module):
    """A convolution without bias, a norm, and a hard swish unless ``act`` is false."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        norm_cfg: LayerConfig,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn = build_norm(norm_cfg, out_channels)[1]
        self.act = nn.Hardswish() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class PatchEmbed(nn.Module):
    """A depthwise and a pointwise convolution, a norm and a hard swish: (N, C, H, W) -> (N, C, ~H / s, ~W / s)."""

    def __init__(self, channels: int, stride: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pwconv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = build_norm(norm_cfg, channels)[1]
        self.act = nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.pwconv(self.dwconv(x))))


class Restore(nn.Module):
    """Pixel descriptor: an inverted bottleneck on (N, C, H, W), section 3.2 of the paper."""

    def __init__(self, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        hidden = channels // 2
        self.conv1 = ConvNorm(channels, hidden, norm_cfg=norm_cfg)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False)
        self.norm = build_norm(norm_cfg, hidden)[1]
        self.act = nn.Hardswish()
        self.conv2 = ConvNorm(hidden, channels, norm_cfg=norm_cfg, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.norm(self.dwconv(self.conv1(x)))))


class ConvPositions(nn.Module):
    """Add a depthwise convolution of themselves to the tokens (N, H * W, C) of a map (H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return x + nchw_to_nlc(self.proj(nlc_to_nchw(x, size)))


class FrequencyFilters(nn.Module):
    """Dynamic low-pass and high-pass filters of the values, section 3.3 of the paper.

    Queries and values (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: C, in eight heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        per_head = channels // NUM_HEADS
        self.high_pass = [count * per_head for _, count in HIGH_PASS]
        self.low_pass = [channels // len(LOW_PASS)] * len(LOW_PASS)
        self.conv_list = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width)
            for (side, _), width in zip(HIGH_PASS, self.high_pass, strict=True)
        )

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        size = (value.shape[2], value.shape[3])
        pooled = (
            resize(adaptive_avg_pool(x, (side, side)), size)
            for x, side in zip(value.split(self.low_pass, 1), LOW_PASS, strict=True)
        )
        high = (conv(x) for conv, x in zip(self.conv_list, value.split(self.high_pass, 1), strict=True))
        return query * torch.cat([*high], 1) + torch.cat([*pooled], 1).relu()


class LinearAttention(nn.Module):
    """Attention of linear cost, plus the filtered values: (N, L, C), (H, W) -> (N, L, C), equation 5 of the paper."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = (channels // NUM_HEADS) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, size: Size, filters: FrequencyFilters) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        q, k, v = (y.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2) for y in (query, key, value))
        attended = (q @ (k.softmax(2).transpose(2, 3) @ v)).transpose(1, 2).flatten(2)
        filtered = nchw_to_nlc(filters(nlc_to_nchw(query, size), nlc_to_nchw(value, size)))
        return self.proj(self.scale * attended + filtered)


class DepthwiseConv(nn.Module):
    """A depthwise convolution of the tokens (N, H * W, C) of a map (H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        return nchw_to_nlc(self.dwconv(nlc_to_nchw(x, size)))


class MLP(nn.Module):
    """Two linear layers with a depthwise convolution between them, on tokens (N, H * W, C) of a map (H, W)."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.dwconv = DepthwiseConv(hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        hidden = self.fc1(x)
        return self.fc2(self.act(hidden + self.dwconv(hidden, size)))


class Block(nn.Module):
    """Attention and an MLP with residual connections, on tokens (N, H * W, C) of a map (H, W)."""

    def __init__(self, channels: int, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        self.factoratt_crpe = LinearAttention(channels)
        self.mlp = MLP(channels, int(mlp_ratio * channels))
        self.drop_path = DropPath(drop_path_rate)
        self.norm1 = nn.LayerNorm(channels, NORM_EPS)
        self.norm2 = nn.LayerNorm(channels, NORM_EPS)

    def forward(self, x: Tensor, size: Size, filters: FrequencyFilters) -> Tensor:
        x = x + self.drop_path(self.factoratt_crpe(self.norm1(x), size, filters))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class Prototypes(nn.Module):
    """Blocks that share their positions and filters: (N, C, h, w) -> the same shape."""

    def __init__(self, channels: int, mlp_ratio: float, drop_path_rates: Sequence[float]) -> None:
        super().__init__()
        self.cpe = ConvPositions(channels)
        self.crpe = FrequencyFilters(channels)
        self.MHCA_layers = nn.ModuleList(Block(channels, mlp_ratio, rate) for rate in drop_path_rates)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        tokens = nchw_to_nlc(x)
        for block in self.MHCA_layers:
            tokens = block(self.cpe(tokens, size), size, self.crpe)
        return nlc_to_nchw(tokens, size)


class Stage(nn.Module):
    """Pixels and their prototypes, two maps (N, C, H, W) and (N, C, h, w), to (N, D, H, W); figure 2 of the paper.

    Args:
        channels: C.
        out_channels: D.
        prototypes: Learns from the second map; None adds it to the first, in the first stage.
        norm_cfg: Type of the norms.
    """

    def __init__(self, channels: int, out_channels: int, prototypes: Prototypes | None, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.Restore = Restore(channels, norm_cfg)
        self.aggregate = ConvNorm(channels, out_channels, norm_cfg=norm_cfg)
        self.mhca_blks = nn.ModuleList([] if prototypes is None else [prototypes])

    def forward(self, pixels: Tensor, prototypes: Tensor) -> Tensor:
        if not self.mhca_blks:
            return self.aggregate(self.Restore(pixels + prototypes))
        (learn,) = self.mhca_blks
        size = (pixels.shape[2], pixels.shape[3])
        return self.aggregate(self.Restore(pixels) + resize(learn(prototypes), size, align_corners=True))


class AFFormer(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 8 and 8.

    Args:
        arch: A name, or ``{embed_dims, depths}``.
        in_channels: Channels of the image.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        out_indices: The stages to return, counted from 0.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        norm_cfg: Type of the norms of convolutions, and its arguments.
        pretrained: Weights to load: a file, an address, or a known name.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = {"arch": {"embed_dims": [8, 16, 16, 24], "depths": [1, 1, 1, 1]}}

    def __init__(
        self,
        arch: Arch | AFFormerArch = "base",
        in_channels: PositiveInt = 3,
        mlp_ratio: Positive = 2,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: Probability = 0.1,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        widths, depths = sizes["embed_dims"], sizes["depths"]
        if len(widths) != 4 or len(depths) != 4:
            raise ConfigError(Problem("there are four stages", "arch"))
        if any(width % NUM_HEADS for width in widths[1:]):
            raise ConfigError(Problem(f"channels must be divisible by {NUM_HEADS} heads", "arch.embed_dims"))
        self.out_indices = check_out_indices(out_indices, 4)
        self.pretrained = pretrained
        self.stem = nn.Sequential(
            ConvNorm(in_channels, widths[0] // 2, 3, 2, norm_cfg=norm_cfg),
            ConvNorm(widths[0] // 2, widths[0], 3, 2, norm_cfg=norm_cfg),
        )
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        # The map of pixels stays at stride 8 from the second stage on, only that of their prototypes gets coarser.
        steps = ((1, 1), (2, 1), (1, 2), (1, 4))
        self.patch_embed_stages, self.mhca_stages = nn.ModuleList(), nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            self.patch_embed_stages.append(nn.ModuleList(PatchEmbed(width, step, norm_cfg) for step in steps[i]))
            own = [next(rates) for _ in range(depth)]
            prototypes = Prototypes(width, mlp_ratio, own) if i else None
            self.mhca_stages.append(Stage(width, widths[min(i + 1, 3)], prototypes, norm_cfg))
        self.channels = tuple(widths[min(i + 1, 3)] for i in self.out_indices)
        self.strides = tuple((4, 8, 8, 8)[i] for i in self.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, maps = self.stem(images), []
        for embed, stage in zip(self.patch_embed_stages, self.mhca_stages, strict=True):
            pixels = embed[0](x)  # type: ignore[index]
            x = stage(pixels, embed[1](pixels))  # type: ignore[index]
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)
