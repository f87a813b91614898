"""Hiera: a hierarchical vision transformer without convolutions, relative positions or shifted windows.

    features = Hiera("tiny")(torch.rand(2, 3, 512, 512))  # 96, 192, 384, 768 channels at strides 4, 8, 16, 32

Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles, Ryali et al., 2023
(https://arxiv.org/abs/2306.00989).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import NonNegativeInt, Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    AdaptivePadding,
    DropPath,
    FreezableBackbone,
    check_frozen_stages,
    check_out_indices,
    check_per_stage,
    checkpoint_block,
    linear_drop_path_rates,
    resize_pos_embed,
    trunc_normal_init,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.positions import interpolate_pos_embed
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.windows import (
    Size,
    crop_to_size,
    pad_to_windows,
    window_partition,
    window_reverse,
    windows_of,
)

ARCHS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "tiny": (96, 1, (1, 2, 7, 2)),
    "small": (96, 1, (1, 2, 11, 2)),
    "base": (96, 1, (2, 3, 16, 3)),
    "base_plus": (112, 2, (2, 3, 16, 3)),
    "large": (144, 2, (2, 6, 36, 4)),
    "huge": (256, 4, (2, 6, 36, 4)),
}
"""Channels and heads of the first stage, doubled in each further one, and blocks of each stage; table 2."""
Arch = Literal["tiny", "small", "base", "base_plus", "large", "huge"]

NORM_EPS = 1e-6
PATCH_STRIDE = 4


class HieraArch(TypedDict):
    """A custom architecture: channels and heads of the first stage, blocks of each stage."""

    embed_dims: PositiveInt
    num_heads: PositiveInt
    depths: Sequence[PositiveInt]


class HieraAttention(nn.Module):
    """Attention within windows, whose queries may be pooled: (N, H, W, C) -> (N, H, W, D) or (N, H // 2, W // 2, D).

    Args:
        in_channels: C.
        out_channels: D.
        num_heads: Attention heads.
        window_size: Side in tokens of the windows, figure 4 of the paper; 0 for attention to the whole map.
        pool: Whether four neighbouring queries are one, by their maximum.
    """

    def __init__(self, in_channels: int, out_channels: int, num_heads: int, window_size: int, pool: bool) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.pool = num_heads, window_size, pool
        self.qkv = nn.Linear(in_channels, 3 * out_channels)
        self.proj = nn.Linear(out_channels, out_channels)

    def forward(self, grid: Tensor) -> Tensor:
        size = (grid.shape[1], grid.shape[2])
        window, num_windows = windows_of(size, self.window_size)
        windows = window_partition(pad_to_windows(grid, num_windows, window), num_windows, window)
        query, key, value = self.qkv(windows).chunk(3, -1)
        if self.pool:
            maps = query.flatten(0, 1).unflatten(1, window)
            query = max_pool(maps).flatten(1, 2).unflatten(0, (grid.shape[0], -1))
            window, size = (window[0] // 2, window[1] // 2), (size[0] // 2, size[1] // 2)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(2, 3) for x in (query, key, value))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3)
        return crop_to_size(window_reverse(self.proj(attended), num_windows, window), size)


class HieraBlock(nn.Module):
    """Attention and a feed-forward network: (N, H, W, C) -> (N, H, W, D), or half of the size with ``pool``.

    Args:
        in_channels: C.
        out_channels: D.
        num_heads: Attention heads.
        window_size: Side of the windows in tokens; 0 for attention to the whole map.
        pool: Whether the map is halved, at the start of a stage.
        mlp_ratio: Hidden width of the feed-forward network, as a multiple of D.
        drop_path_rate: Drop path rate of both branches.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_heads: int,
        window_size: int,
        pool: bool,
        mlp_ratio: float,
        drop_path_rate: float,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.pool, self.with_cp = pool, with_cp
        self.norm1 = nn.LayerNorm(in_channels, NORM_EPS)
        self.attn = HieraAttention(in_channels, out_channels, num_heads, window_size, pool)
        self.norm2 = nn.LayerNorm(out_channels, NORM_EPS)
        hidden = int(mlp_ratio * out_channels)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(out_channels, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, out_channels))
        )
        self.proj = nn.Linear(in_channels, out_channels) if in_channels != out_channels else None
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor) -> Tensor:
        identity, x = x, self.norm1(x)
        if self.proj is not None:
            # Unlike in other transformers, the residual connection is of the normalised tokens here.
            identity = self.proj(x)
            identity = max_pool(identity) if self.pool else identity
        x = identity + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Overlapping patches: (N, in, H, W) -> (N, ~H / 4, ~W / 4, C)."""

    def __init__(self, in_channels: int, embed_dims: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, 7, stride=PATCH_STRIDE, padding=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).permute(0, 2, 3, 1)


class HieraTrunk(Pretrained, FreezableBackbone):
    """What `Hiera` and SAM 2's encoder share: everything but the position embeddings.

    A subclass creates ``pos_embed``, implements `positions`, and calls `init_weights` and `freeze_stages`.

    Args:
        embed_dims: Channels of the first stage, doubled in each further one.
        num_heads: Attention heads of the first stage, doubled in each further one.
        depths: Blocks of each stage.
        window_sizes: Of each stage, the side of the windows in tokens; 0 for attention to the whole map.
        global_blocks: Blocks that attend to the whole map all the same, counted from 0.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        in_channels: Channels of the image.
        out_indices: The stages to return, counted from 0.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        out_norm: Add a norm to each output.
        with_cp: Activation checkpointing.
        pretrained: Weights to load.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n stages.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.
    """

    pos_embed: nn.Parameter

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        depths: Sequence[int],
        *,
        window_sizes: Sequence[int],
        global_blocks: Sequence[int] = (),
        mlp_ratio: float,
        in_channels: int,
        out_indices: Sequence[int],
        drop_path_rate: float,
        out_norm: bool,
        with_cp: bool,
        pretrained: str | None,
        frozen_stages: int,
        adapt: Adapter | None,
    ) -> None:
        super().__init__()
        check_per_stage(len(depths), {"window_sizes": window_sizes})
        if embed_dims % num_heads:
            raise ConfigError(
                Problem(f"{embed_dims} channels are not divisible by {num_heads} heads", "arch.num_heads")
            )
        self.depths, widths = tuple(depths), [embed_dims * 2**stage for stage in range(len(depths))]
        self.ends = [end - 1 for end in accumulate(depths)]
        """The last block of each stage."""
        self.out_indices = check_out_indices(out_indices, len(depths))
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(depths))
        self.pretrained, self.adapt = pretrained, adapt
        side = PATCH_STRIDE * 2 ** (len(depths) - 1)
        self.pad = AdaptivePadding(side, side, 1, "corner")
        self.patch_embed = PatchEmbed(in_channels, embed_dims)
        rates = linear_drop_path_rates(drop_path_rate, sum(depths))
        self.blocks = nn.ModuleList()
        for index in range(sum(depths)):
            stage, starts = self._stage(index), index - 1 in self.ends
            # A block that pools is at the resolution, and in the windows, of the stage before.
            window = 0 if index in global_blocks else window_sizes[stage - starts]
            if starts and window % 2:
                raise ConfigError(Problem(f"windows of {window} tokens cannot be halved", "window_sizes"))
            block = HieraBlock(
                widths[stage - starts],
                widths[stage],
                num_heads=num_heads * 2**stage,
                window_size=window,
                pool=starts,
                mlp_ratio=mlp_ratio,
                drop_path_rate=rates[index],
                with_cp=with_cp,
            )
            self.blocks.append(block)
        for i in sorted(self.out_indices):
            self.add_module(f"norm{i}", nn.LayerNorm(widths[i]) if out_norm else nn.Identity())
        self.channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(PATCH_STRIDE * 2**i for i in self.out_indices)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        height, width = images.shape[2:]
        x = self.embed(images)
        maps = {}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.ends and (stage := self.ends.index(index)) in self.out_indices:
                stride = PATCH_STRIDE * 2**stage
                size = ((height + stride - 1) // stride, (width + stride - 1) // stride)
                maps[stage] = crop_to_size(getattr(self, f"norm{stage}")(x), size).permute(0, 3, 1, 2)
        return tuple(maps[i] for i in self.out_indices)

    def embed(self, images: Tensor) -> Tensor:
        """Return the embedded patches, (N, ~H / 4, ~W / 4, C)."""
        x = self.patch_embed(self.pad(images))
        return x + self.positions((x.shape[1], x.shape[2]))

    def positions(self, size: Size) -> Tensor:
        """Return the position embeddings of a map of ``size`` (H, W), (1, H, W, C)."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise linear layers and position embeddings."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02)
        for parameter in self._position_embeddings():
            nn.init.trunc_normal_(parameter, std=0.02)

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        first, _, rest = parameter.partition(".")
        if first == "blocks":
            index = int(rest.partition(".")[0])
            return (self._stage(index) if stage_wise else index) + 1
        return 0 if first.startswith(("pos_embed", "patch_embed")) else None

    def frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f"norm{i}") for i in self.out_indices if i < self.frozen_stages]
        return [self.patch_embed, *self.blocks[: sum(self.depths[: self.frozen_stages])], *norms]

    def freeze_stages(self) -> None:
        super().freeze_stages()
        if self.frozen_stages >= 0:
            for parameter in self._position_embeddings():
                parameter.requires_grad_(False)

    def _position_embeddings(self) -> list[nn.Parameter]:
        return [parameter for name, parameter in self.named_parameters() if name.startswith("pos_embed")]

    def _stage(self, block: int) -> int:
        return sum(block > end for end in self.ends)


class Hiera(HieraTrunk):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Sizes that are not divisible by a stride are rounded up; images are padded with zeros to multiples of 32 pixels.

    Args:
        arch: A name, or ``{embed_dims, num_heads, depths}``.
        img_size: Side in pixels of the images that the position embeddings are for; they are interpolated to others.
        in_channels: Channels of the image.
        window_sizes: Of each stage, the side of the windows in tokens; 0 for attention to the whole map.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        out_indices: The stages to return, counted from 0.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        out_norm: Add a norm to each output.
        unroll: False gives the numbers of ``HieraBackbone`` of transformers 5.24, which takes the tokens row by row
            where its encoder expects them window by window: windows, pooling and outputs are of scattered patches.
            For weights that were trained in it; the authors' pretrained weights need true.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n stages.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"arch": {"embed_dims": 8, "num_heads": 1, "depths": [1, 1, 2, 1]}, "img_size": 64}

    def __init__(
        self,
        arch: Arch | HieraArch = "tiny",
        img_size: PositiveInt = 224,
        in_channels: PositiveInt = 3,
        window_sizes: Sequence[NonNegativeInt] = (8, 4, 0, 0),
        mlp_ratio: Positive = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: Probability = 0.0,
        out_norm: bool = True,
        unroll: bool = True,
        with_cp: bool = False,
        pretrained: str | None = None,
        frozen_stages: int = -1,
        adapt: Adapter | None = None,
    ) -> None:
        embed_dims, num_heads, depths = _sizes(arch)
        super().__init__(
            embed_dims,
            num_heads,
            depths,
            window_sizes=window_sizes,
            mlp_ratio=mlp_ratio,
            in_channels=in_channels,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            out_norm=out_norm,
            with_cp=with_cp,
            pretrained=pretrained,
            adapt=adapt,
            frozen_stages=frozen_stages,
        )
        self.unroll = unroll
        self.grid = (img_size // PATCH_STRIDE, img_size // PATCH_STRIDE)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], embed_dims))
        self.init_weights()
        self.freeze_stages()

    def embed(self, images: Tensor) -> Tensor:
        x = super().embed(images)
        return x if self.unroll else _row_by_row(x, len(self.depths) - 1)

    def positions(self, size: Size) -> Tensor:
        return resize_pos_embed(self.pos_embed, self.grid, size, "bicubic", extra_tokens=0).unflatten(1, size)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of another image size."""
        return interpolate_pos_embed(value, self.grid, extra_tokens=0) if name == "pos_embed" else None


def max_pool(grid: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, H // 2, W // 2, C), the maximum of four neighbours."""
    return F.max_pool2d(grid.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _row_by_row(grid: Tensor, halvings: int) -> Tensor:
    """Return (N, H, W, C) whose tokens, read window by window and by quarters within them, are those of ``grid`` row
    by row."""
    batch, height, width, channels = grid.shape
    side = 2**halvings
    split = grid.reshape(batch, *(2, 2) * halvings, height // side, width // side, channels)
    rows = [2 * halvings + 1, *range(2 * halvings - 1, 0, -2)]
    return split.permute(0, *rows, *(axis + 1 for axis in rows), -1).reshape(grid.shape)


def _sizes(arch: str | HieraArch) -> tuple[int, int, tuple[int, ...]]:
    if isinstance(arch, str):
        return ARCHS[arch]
    return arch["embed_dims"], arch["num_heads"], tuple(arch["depths"])
