"""The image encoder of SAM: a ViT with attention in windows, a few global blocks, and decomposed relative positions.

    features, = ViTSAM("base")(torch.rand(1, 3, 1024, 1024))        # 256 channels at stride 16

Segment Anything, Kirillov et al., 2023 (https://arxiv.org/abs/2304.02643); the backbone is that of Exploring Plain
Vision Transformer Backbones for Object Detection, Li et al., 2022 (https://arxiv.org/abs/2203.16527).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import NonNegativeInt, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    FFN,
    DropPath,
    FreezableBackbone,
    LayerConfig,
    PatchEmbed,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    checkpoint_block,
    linear_drop_path_rates,
    resize,
)
from segkernel.nn.layers import LayerNorm2d
from segplug_backbones.adapters import Adapter
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.vit import NumberedLayers, init_weights
from segplug_backbones.windows import (
    Size,
    crop_to_size,
    pad_to_windows,
    window_partition,
    window_reverse,
    windows_of,
)


class ViTSAMArch(TypedDict):
    """A custom architecture; ``global_attn_indexes`` are the blocks without windows, counted from 0."""

    embed_dims: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    feedforward_channels: PositiveInt
    global_attn_indexes: Sequence[NonNegativeInt]


ARCHS: dict[str, ViTSAMArch] = {
    name: ViTSAMArch(
        embed_dims=embed_dims,
        num_layers=num_layers,
        num_heads=num_heads,
        feedforward_channels=4 * embed_dims,
        global_attn_indexes=tuple(range(num_layers // 4 - 1, num_layers, num_layers // 4)),
    )
    for name, embed_dims, num_layers, num_heads in (
        ("base", 768, 12, 12),
        ("large", 1024, 24, 16),
        ("huge", 1280, 32, 16),
    )
}
"""The three models of the authors: every fourth part of the network ends with global attention."""
Arch = Literal["base", "large", "huge"]


class RelativeAttention(nn.Module):
    """Self-attention of the tokens of windows, with relative positions along each axis: (N, windows, h * w, C), (h, w).

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        qkv_bias: Whether queries, keys and values have a bias.
        size: Tokens (h, w) that the tables of relative positions are for; they are interpolated to others.
        use_rel_pos: Whether there are relative positions.
    """

    def __init__(self, embed_dims: int, num_heads: int, qkv_bias: bool, size: Size, use_rel_pos: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        channels = embed_dims // num_heads
        tables = [nn.Parameter(torch.zeros(2 * side - 1, channels)) if use_rel_pos else None for side in size]
        self.rel_pos_h, self.rel_pos_w = tables

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate a table of another window or image size."""
        return interpolate_table(value, shape[0]) if name in ("rel_pos_h", "rel_pos_w") else None

    def forward(self, windows: Tensor, size: Size) -> Tensor:
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self._position_bias(query.unflatten(-2, size), size)
        return self.proj(F.scaled_dot_product_attention(query, key, value, bias).transpose(2, 3).flatten(3))

    def _position_bias(self, query: Tensor, size: Size) -> Tensor | None:
        """Return what is added to the logits, (..., h * w, h * w), for queries (..., h, w, D)."""
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        rows = query @ relative_positions(self.rel_pos_h, size[0]).transpose(1, 2)
        columns = query.transpose(-3, -2) @ relative_positions(self.rel_pos_w, size[1]).transpose(1, 2)
        bias = rows.unsqueeze(-1) + columns.transpose(-3, -2).unsqueeze(-2)
        return bias.flatten(-2).flatten(-3, -2)


def relative_positions(table: Tensor, side: int) -> Tensor:
    """Return the row of a table (2 S - 1, D) for each pair of positions on an axis, (side, side, D)."""
    position = torch.arange(side, device=table.device)
    return interpolate_table(table, 2 * side - 1)[position[:, None] - position + side - 1]


def interpolate_table(table: Tensor, length: int) -> Tensor:
    """Interpolate (L, D) linearly to (length, D); the same numbers if it is L."""
    return F.interpolate(table.T.unsqueeze(0), length, mode="linear").squeeze(0).T


class ViTSAMBlock(nn.Module):
    """Attention, within windows or global, and a feed-forward network: (N, H, W, C) -> the same shape.

    Args:
        embed_dims: C.
        num_heads: Attention heads.
        feedforward_channels: Hidden width of the feed-forward network.
        window_size: Side of the windows in tokens; 0 for global attention.
        grid: Tokens (height, width) of the images that the weights are for.
        qkv_bias: Whether queries, keys and values have a bias.
        use_rel_pos: Whether the attention has relative positions.
        drop_path_rate: Drop path rate of both branches.
        norm_cfg: Type of the norms.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        *,
        window_size: int,
        grid: Size,
        qkv_bias: bool,
        use_rel_pos: bool,
        drop_path_rate: float,
        norm_cfg: LayerConfig,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.window_size, self.with_cp = window_size, with_cp
        size = (window_size, window_size) if window_size else grid
        self.ln1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = RelativeAttention(embed_dims, num_heads, qkv_bias, size, use_rel_pos)
        self.ln2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = FFN(embed_dims, feedforward_channels, act_cfg={"type": "GELU"}, add_identity=False)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        window, num_windows = windows_of(size, self.window_size)
        # Padding is attended to like any token, as in the authors' code.
        windows = window_partition(pad_to_windows(self.ln1(x), num_windows, window), num_windows, window)
        attended = window_reverse(self.attn(windows, window), num_windows, window)
        x = x + self.drop_path(crop_to_size(attended, size))
        return x + self.drop_path(self.ffn(self.ln2(x)))


class ViTSAM(Pretrained, NumberedLayers, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, all at the stride of a patch.

    Sizes that are not divisible by the patch size are rounded up, by padding with zeros.

    Args:
        arch: A name, or ``{embed_dims, num_layers, num_heads, feedforward_channels, global_attn_indexes}``.
        img_size: Side in pixels of the images that the positions are for; they are interpolated to others.
        patch_size: Side of a patch in pixels.
        in_channels: Channels of the image.
        out_channels: Channels to which two convolutions reduce the last block's map; 0 for none.
        out_indices: The blocks to return, counted from 0, or from the last one with -1.
        window_size: Side of the windows in tokens.
        qkv_bias: Whether queries, keys and values have a bias.
        use_abs_pos: Add position embeddings to the patches.
        use_rel_pos: Add relative positions to the logits of the attention.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0 at the first one.
        norm_cfg: Type of the norms and its arguments.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name.
        frozen_stages: -1 freezes nothing, 0 the embeddings, n also the first n blocks.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {
        "arch": {
            "embed_dims": 16,
            "num_layers": 2,
            "num_heads": 2,
            "feedforward_channels": 32,
            "global_attn_indexes": [1],
        },
        "img_size": 64,
        "out_channels": 8,
        "window_size": 3,
    }

    def __init__(
        self,
        arch: Arch | ViTSAMArch = "base",
        img_size: PositiveInt = 1024,
        patch_size: PositiveInt = 16,
        in_channels: PositiveInt = 3,
        out_channels: NonNegativeInt = 256,
        out_indices: Sequence[int] = (-1,),
        window_size: PositiveInt = 14,
        qkv_bias: bool = True,
        use_abs_pos: bool = True,
        use_rel_pos: bool = True,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN", "eps": 1e-6},
        with_cp: bool = False,
        pretrained: str | None = None,
        frozen_stages: int = -1,
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__()
        sizes = ARCHS[arch] if isinstance(arch, str) else arch
        embed_dims, num_layers, num_heads = sizes["embed_dims"], sizes["num_layers"], sizes["num_heads"]
        if embed_dims % num_heads:
            raise ConfigError(
                Problem(f"{embed_dims} channels are not divisible by {num_heads} heads", "arch.num_heads")
            )
        self.out_indices = check_out_indices(out_indices, num_layers, from_end=True)
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, num_layers)
        self.pretrained, self.adapt = pretrained, adapt
        grid = (img_size // patch_size, img_size // patch_size)
        self.patch_embed = PatchEmbed(in_channels, embed_dims, kernel_size=patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, embed_dims)) if use_abs_pos else None
        self.layers = nn.ModuleList(
            ViTSAMBlock(
                embed_dims,
                num_heads,
                sizes["feedforward_channels"],
                window_size=0 if index in sizes["global_attn_indexes"] else window_size,
                grid=grid,
                qkv_bias=qkv_bias,
                use_rel_pos=use_rel_pos,
                drop_path_rate=rate,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
            )
            for index, rate in enumerate(linear_drop_path_rates(drop_path_rate, num_layers))
        )
        self.channel_reduction = None
        if out_channels and num_layers - 1 in self.out_indices:
            self.channel_reduction = nn.Sequential(
                nn.Conv2d(embed_dims, out_channels, 1, bias=False),
                LayerNorm2d(out_channels, eps=1e-6),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels, eps=1e-6),
            )
        last = num_layers - 1
        self.channels = tuple(out_channels if out_channels and i == last else embed_dims for i in self.out_indices)
        self.strides = (patch_size,) * len(self.out_indices)
        self.layers.apply(init_weights)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / patch_size, ~W / patch_size)."""
        tokens, size = self.patch_embed(images)
        x = tokens.unflatten(1, size)
        if self.pos_embed is not None:
            x = x + resize(self.pos_embed.permute(0, 3, 1, 2), size, mode="bicubic").permute(0, 2, 3, 1)
        maps = {}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.out_indices:
                maps[index] = x.permute(0, 3, 1, 2)
        if self.channel_reduction is not None:
            maps[len(self.layers) - 1] = self.channel_reduction(maps[len(self.layers) - 1])
        return tuple(maps[i] for i in self.out_indices)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of another image size."""
        if name != "pos_embed" or value.ndim != 4:
            return None
        return resize(value.permute(0, 3, 1, 2), (shape[1], shape[2]), mode="bicubic").permute(0, 2, 3, 1)

    def frozen_modules(self) -> Sequence[nn.Module]:
        return [] if self.frozen_stages < 0 else [self.patch_embed, *self.layers[: self.frozen_stages]]

    def freeze_stages(self) -> None:
        super().freeze_stages()
        if self.frozen_stages >= 0 and self.pos_embed is not None:
            self.pos_embed.requires_grad_(False)
