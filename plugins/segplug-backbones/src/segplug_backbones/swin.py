"""Swin Transformer: attention within windows that are shifted from layer to layer, in stages of halved resolution.

    features = swin_tiny()(torch.rand(2, 3, 512, 512))  # 96, 192, 384, 768 channels at strides 4, 8, 16, 32

Reference: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, Liu et al., 2021
(https://arxiv.org/abs/2103.14030).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    FFN,
    LayerConfig,
    PatchEmbed,
    PatchMerging,
    build_dropout,
    build_norm,
    fit_pos_embed,
    fit_position_table,
    nlc_to_nchw,
    resize_pos_embed,
    trunc_normal_init,
)
from segplug_backbones.freezing import PartlyFrozen, check_frozen
from segplug_backbones.recompute import recompute, worth_recomputing
from segplug_backbones.stages import check_indices, growing
from segplug_backbones.windows import (
    Size,
    count_windows,
    crop_windows,
    join_windows,
    keep_apart,
    pad_to_windows,
    split_windows,
)

SEPARATE = -100.0
"""Added to the score of two tokens that were no neighbours before the shift."""


class WindowMSA(nn.Module):
    """Attention within windows of ``window_size`` x ``window_size`` tokens, with a bias for each relative position.

    Windows (N, windows, tokens, C) -> the same; ``mask`` (windows, tokens, tokens) is added to the scores.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", _relative_positions(window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Return the biases of another window for this one."""
        side = (math.isqrt(shape[0]) + 1) // 2
        return fit_position_table(value, (side, side)) if name == "relative_position_bias_table" else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask.unsqueeze(1)
        weights = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(-1)
        attended = self.attn_drop(weights) @ v
        return self.proj_drop(self.proj(attended.transpose(2, 3).flatten(3)))


class ShiftWindowMSA(nn.Module):
    """`WindowMSA` on a map whose windows begin ``shift_size`` tokens further right and below.

    (N, H * W, C) and (H, W) -> (N, H * W, C). The map is padded to whole windows; tokens that the shift brings round
    from the other side do not see each other.
    """

    def __init__(self, attention: WindowMSA, window_size: int, shift_size: int, drop_path_rate: float) -> None:
        super().__init__()
        self.w_msa = attention
        self.window_size, self.shift_size = window_size, shift_size
        self.drop = build_dropout({"type": "DropPath", "drop_prob": drop_path_rate})

    def forward(self, x: Tensor, size: Size) -> Tensor:
        side, shift, mask = self.window_size, self.shift_size, None
        counts = count_windows(size, side)
        grid = pad_to_windows(x.unflatten(1, size), counts, side)
        if shift:
            grid = grid.roll((-shift, -shift), (1, 2))
            rows, columns = (self._regions(count * side, x.device) for count in counts)
            mask = keep_apart(rows[:, None] * 3 + columns, counts, side, SEPARATE, x.dtype)
        grid = join_windows(self.w_msa(split_windows(grid, counts, side), mask), counts, side)
        if shift:
            grid = grid.roll((shift, shift), (1, 2))
        return self.drop(crop_windows(grid, size).flatten(1, 2))

    def _regions(self, length: int, device: torch.device) -> Tensor:
        """Return for each row, or column, which of three parts it is of: those of the last window were cut in two."""
        position = torch.arange(length, device=device)
        return (position >= length - self.window_size).long() + (position >= length - self.shift_size)


class SwinBlock(nn.Module):
    """Attention in windows, then a feed-forward layer, each after a norm: (N, H * W, C) and (H, W) -> (N, H * W, C)."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        window_size: int,
        shift_size: int,
        qkv_bias: bool,
        qk_scale: float | None,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        act_cfg: LayerConfig,
        norm_cfg: LayerConfig,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, embed_dims)[1]
        attention = WindowMSA(embed_dims, num_heads, window_size, qkv_bias, qk_scale, attn_drop_rate, drop_rate)
        self.attn = ShiftWindowMSA(attention, window_size, shift_size, drop_path_rate)
        self.norm2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = FFN(
            embed_dims,
            feedforward_channels,
            act_cfg=act_cfg,
            ffn_drop=drop_rate,
            dropout_layer={"type": "DropPath", "drop_prob": drop_path_rate},
        )
        self.with_cp = with_cp

    def forward(self, x: Tensor, size: Size) -> Tensor:
        if self.with_cp and worth_recomputing(x):
            return recompute(self, lambda tokens: self._run(tokens, size), x)
        return self._run(x, size)

    def _run(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.attn(self.norm1(x), size)
        return self.ffn(self.norm2(x), x)


class SwinStage(nn.Module):
    """Blocks, every second one with shifted windows, then `PatchMerging`, but for the last stage.

    (N, H * W, C) and (H, W) -> the blocks' tokens; `downsample` makes the next stage's.
    """

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, size: Size) -> Tensor:
        for block in self.blocks:
            x = block(x, size)
        return x


class SwinTransformer(PartlyFrozen):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, at strides 4, 8, 16 and 32 by default.

    Sizes that are no multiple of the stride are rounded up.

    Args:
        pretrain_img_size: Side, or (height, width), of the images whose positions ``use_abs_pos_embed`` knows; for
            other sizes they are interpolated.
        in_channels: Channels of the image.
        embed_dims: Channels of the first stage; each further one has twice as many.
        patch_size: Side in pixels of the patches that become tokens.
        window_size: Side of the windows in tokens.
        mlp_ratio: Width of the feed-forward layers, times that of the stage.
        depths: Layers of each stage.
        num_heads: Attention heads of each stage.
        strides: Distance of the patches in pixels, which is their side, then how much smaller each stage is than the
            one before it.
        out_indices: The stages to return, counted from 0.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor of the queries; 1 / sqrt(channels of a head) for None.
        patch_norm: Whether there is a norm after the patch embedding and before each merging.
        drop_rate: Share of values dropped after the embedding, after attention and in feed-forward layers.
        attn_drop_rate: Share of attention weights dropped.
        drop_path_rate: Share of layers skipped at the end of the network, growing from 0 at its start.
        use_abs_pos_embed: Whether an embedding of its position is added to each patch.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm and its arguments.
        with_cp: Compute activations a second time in backward, to save memory.
        pretrained: Weights that the runner loads after building.
        frozen_stages: Do not train the embedding (0) and as many first stages; -1 trains everything.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"embed_dims": 8, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        embed_dims: int = 96,
        patch_size: int = 4,
        window_size: int = 7,
        mlp_ratio: float = 4,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        strides: Sequence[int] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        with_cp: bool = False,
        pretrained: str | None = None,
        frozen_stages: int = -1,
    ) -> None:
        super().__init__()
        _check_arguments(embed_dims, patch_size, depths, num_heads, strides)
        self.out_indices = check_indices(out_indices, len(depths))
        self.frozen_stages = check_frozen(frozen_stages, -1, len(depths))
        self.pretrained = pretrained
        merge_norm = norm_cfg if patch_norm else None
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, kernel_size=patch_size, stride=strides[0], norm_cfg=merge_norm
        )
        self.grid = _grid(pretrain_img_size, patch_size)
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid), embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        widths = [embed_dims * 2**i for i in range(len(depths))]
        drop_paths = iter(growing(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [
                SwinBlock(
                    width,
                    num_heads[i],
                    int(mlp_ratio * width),
                    window_size,
                    window_size // 2 if j % 2 else 0,
                    qkv_bias,
                    qk_scale,
                    drop_rate,
                    attn_drop_rate,
                    next(drop_paths),
                    act_cfg,
                    norm_cfg,
                    with_cp,
                )
                for j in range(depth)
            ]
            last = i == len(depths) - 1
            merging = None if last else PatchMerging(width, 2 * width, stride=strides[i + 1], norm_cfg=merge_norm)
            self.stages.append(SwinStage(blocks, merging))
        for i in sorted(self.out_indices):
            self.add_module(f"norm{i}", build_norm(norm_cfg, widths[i])[1])
        self.channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(math.prod(strides[: i + 1]) for i in self.out_indices)
        self._initialise()
        self._freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, size = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            x = x + resize_pos_embed(self.absolute_pos_embed, self.grid, size, mode="bicubic", extra_tokens=0)
        x = self.drop_after_pos(x)
        maps = {}
        for i, stage in enumerate(self.stages):
            x = stage(x, size)
            if i in self.out_indices:
                maps[i] = nlc_to_nchw(getattr(self, f"norm{i}")(x), size)
            if stage.downsample is not None:
                x, size = stage.downsample(x, size)
        return tuple(maps[i] for i in self.out_indices)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Return the position embeddings of another image size for this one."""
        return fit_pos_embed(value, self.grid, extra_tokens=0) if name == "absolute_pos_embed" else None

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def _frozen(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f"norm{i}") for i in self.out_indices if i < self.frozen_stages]
        return [self.patch_embed, self.drop_after_pos, *self.stages[: self.frozen_stages], *norms]

    def _freeze(self) -> None:
        super()._freeze()
        if self.frozen_stages >= 0 and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)


def _relative_positions(side: int) -> Tensor:
    """Return for each pair of tokens of a window its row of the bias table, (side * side, side * side)."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    position = torch.stack([row.flatten(), column.flatten()])
    down, right = position[:, :, None] - position[:, None, :] + side - 1
    return down * (2 * side - 1) + right


def _grid(image_size: int | Sequence[int], patch_size: int) -> Size:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height // patch_size, width // patch_size


VARIANTS: dict[str, tuple[int, tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
"""Channels, layers and heads of each stage, section 3.3 of the paper."""


def swin_tiny(in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3) -> SwinTransformer:
    """Swin-T, 27.5 M parameters."""
    return _variant("tiny", in_channels, window_size, drop_path_rate)


def swin_small(in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3) -> SwinTransformer:
    """Swin-S, 48.8 M parameters."""
    return _variant("small", in_channels, window_size, drop_path_rate)


def swin_base(in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3) -> SwinTransformer:
    """Swin-B, 86.7 M parameters; windows of 12 for weights made at 384 pixels."""
    return _variant("base", in_channels, window_size, drop_path_rate)


def swin_large(in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3) -> SwinTransformer:
    """Swin-L, 195.0 M parameters; windows of 12 for weights made at 384 pixels."""
    return _variant("large", in_channels, window_size, drop_path_rate)


def _variant(name: str, in_channels: int, window_size: int, drop_path_rate: float) -> SwinTransformer:
    embed_dims, depths, num_heads = VARIANTS[name]
    return SwinTransformer(
        in_channels=in_channels,
        embed_dims=embed_dims,
        window_size=window_size,
        depths=depths,
        num_heads=num_heads,
        drop_path_rate=drop_path_rate,
    )


def _check_arguments(
    embed_dims: int, patch_size: int, depths: Sequence[int], num_heads: Sequence[int], strides: Sequence[int]
) -> None:
    for name, values in (("num_heads", num_heads), ("strides", strides)):
        if len(values) != len(depths):
            raise ConfigError(Problem(f"{list(values)} needs {len(depths)} numbers, one for each of the depths", name))
    if strides[0] != patch_size:
        raise ConfigError(Problem(f"{list(strides)} must begin with the patch_size, {patch_size}", "strides"))
    for i, heads in enumerate(num_heads):
        if embed_dims * 2**i % heads:
            raise ConfigError(Problem(f"{embed_dims * 2**i} channels cannot be cut into {heads} heads", "num_heads"))
