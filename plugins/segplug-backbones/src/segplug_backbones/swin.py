"""Swin Transformer: a hierarchical transformer with attention in shifted windows.

    features = swin_tiny()(torch.rand(2, 3, 512, 512))  # 96, 192, 384, 768 channels at strides 4, 8, 16, 32

Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, Liu et al., 2021
(https://arxiv.org/abs/2103.14030).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    FFN,
    AdaptivePadding,
    FreezableBackbone,
    LayerConfig,
    PatchEmbed,
    build_dropout,
    build_norm,
    check_frozen_stages,
    check_out_indices,
    check_per_stage,
    checkpoint_block,
    linear_drop_path_rates,
    nchw_to_nlc,
    nlc_to_nchw,
    resize_pos_embed,
    trunc_normal_init,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.factory import factory
from segplug_backbones.positions import interpolate_pos_embed, interpolate_relative_position_bias
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.windows import (
    Size,
    count_windows,
    crop_to_size,
    pad_to_windows,
    relative_position_index,
    shift_region_ids,
    window_attention_mask,
    window_partition,
    window_reverse,
)

MASKED = -100.0
"""Attention mask of two tokens that only the cyclic shift brought into one window; the authors' value, not -inf."""


class WindowMSA(nn.Module):
    """Attention within windows of ``window_size`` x ``window_size`` tokens, with a relative position bias.

    (N, windows, tokens, C) -> the same shape, equation 4 of the paper.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        window_size: Side of a window in tokens.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Scale of the logits; 1 / sqrt(channels of a head) for None.
        attn_drop_rate: Dropout rate of the attention weights.
        proj_drop_rate: Dropout rate of the output projection.
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
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate a bias table of another window size."""
        if name != "relative_position_bias_table":
            return None
        window_size = (math.isqrt(shape[0]) + 1) // 2
        return interpolate_relative_position_bias(value, (window_size, window_size))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention of each window; ``mask`` (windows, tokens, tokens) is added to its logits."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask.unsqueeze(1)
        # Scaled before the product, as in the authors' code: unscaled logits may overflow float16.
        weights = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(-1)
        attended = self.attn_drop(weights) @ v
        return self.proj_drop(self.proj(attended.transpose(2, 3).flatten(3)))


class ShiftWindowMSA(nn.Module):
    """`WindowMSA` on a feature map, in windows that are shifted by ``shift_size`` tokens right and down.

    (N, H * W, C) and (H, W) -> (N, H * W, C). The shift is a cyclic one, figure 4 of the paper: windows at the border
    then hold tokens of opposite sides of the map, which a mask keeps from attending to each other.

    Args:
        attention: Attention within one window.
        window_size: Side of a window in tokens.
        shift_size: 0 for an unshifted layer.
        drop_path_rate: Drop path rate of the residual branch.
    """

    def __init__(self, attention: WindowMSA, window_size: int, shift_size: int, drop_path_rate: float) -> None:
        super().__init__()
        self.w_msa = attention
        self.window_size, self.shift_size = window_size, shift_size
        self.drop = build_dropout({"type": "DropPath", "drop_prob": drop_path_rate})

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """Return the attention of the tokens ``x`` of a map of ``size`` (H, W)."""
        window_size, shift = self.window_size, self.shift_size
        num_windows = count_windows(size, window_size)
        # As in the authors' code for dense prediction, padding is attended to like any token, and a map smaller than a
        # window is shifted all the same; their classification code does neither.
        grid = pad_to_windows(x.unflatten(1, size), num_windows, window_size)
        mask = None
        if shift:
            grid = grid.roll((-shift, -shift), (1, 2))
            region_ids = shift_region_ids(num_windows, window_size, shift, x.device)
            mask = window_attention_mask(region_ids, num_windows, window_size, MASKED, x.dtype)
        windows = self.w_msa(window_partition(grid, num_windows, window_size), mask)
        grid = window_reverse(windows, num_windows, window_size)
        if shift:
            grid = grid.roll((shift, shift), (1, 2))
        return self.drop(crop_to_size(grid, size).flatten(1, 2))


class SwinBlock(nn.Module):
    """Attention in windows and a feed-forward network, equation 3 of the paper.

    (N, H * W, C) and (H, W) -> (N, H * W, C).

    Args:
        embed_dims: C.
        num_heads: Attention heads.
        feedforward_channels: Hidden width of the feed-forward network.
        window_size: Side of a window in tokens.
        shift_size: Shift of the windows in tokens.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Scale of the logits; 1 / sqrt(channels of a head) for None.
        drop_rate: Dropout rate of the projection and in the feed-forward network.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of both branches.
        act_cfg: Type of the activation.
        norm_cfg: Type of the norms.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        embed_dims: int,
        *,
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
        attention = WindowMSA(
            embed_dims,
            num_heads,
            window_size,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
        )
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
        return checkpoint_block(self, x, size, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.attn(self.norm1(x), size)
        return self.ffn(self.norm2(x), x)


class PatchMerging(nn.Module):
    """Concatenate neighbouring tokens and project them: (N, h * w, C), (h, w) -> (N, h' * w', D), (h', w').

    The channels are in the order of ``F.unfold``, not in the authors' order of the four neighbours.

    Args:
        in_channels: C.
        out_channels: D.
        kernel_size: Side of the square of tokens that is concatenated.
        stride: Step between squares in tokens; ``kernel_size`` for None.
        padding: In tokens on each side, or the mode of `AdaptivePadding`.
        dilation: Step between the tokens of a square.
        bias: Whether the projection has a bias.
        norm_cfg: Norm of the concatenated tokens; None for no norm.
        is_post_norm: The norm is that of the projected tokens, as in Swin V2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 2,
        stride: int | None = None,
        padding: int | Literal["same", "corner"] = "corner",
        dilation: int = 1,
        bias: bool = False,
        norm_cfg: LayerConfig | None = {"type": "LN"},  # noqa: B006  never changed
        is_post_norm: bool = False,
    ) -> None:
        super().__init__()
        stride = kernel_size if stride is None else stride
        self.adap_padding = None
        if isinstance(padding, str):
            self.adap_padding = AdaptivePadding(kernel_size, stride, dilation, padding)
            padding = 0
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        concatenated = kernel_size**2 * in_channels
        self.is_post_norm = is_post_norm
        self.norm = None
        if norm_cfg is not None:
            self.norm = build_norm(norm_cfg, out_channels if is_post_norm else concatenated)[1]
        self.reduction = nn.Linear(concatenated, out_channels, bias=bias)

    def forward(self, x: Tensor, size: Size) -> tuple[Tensor, Size]:
        """Return the tokens of the next stage and their (height, width)."""
        grid = nlc_to_nchw(x, size)
        if self.adap_padding is not None:
            grid = self.adap_padding(grid)
        height, width = (self._output_size(length) for length in grid.shape[2:])
        if self.kernel_size == self.stride and self.dilation == 1 and self.padding == 0:
            # The same as unfold, but exporters have an operator for it.
            whole = grid[:, :, : height * self.stride, : width * self.stride]
            tokens = nchw_to_nlc(F.pixel_unshuffle(whole, self.stride))
        else:
            tokens = F.unfold(grid, self.kernel_size, self.dilation, self.padding, self.stride).transpose(1, 2)
        if self.norm is None:
            return self.reduction(tokens), (height, width)
        if self.is_post_norm:
            return self.norm(self.reduction(tokens)), (height, width)
        return self.reduction(self.norm(tokens)), (height, width)

    def _output_size(self, length: int) -> int:
        return (length + 2 * self.padding - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1


class SwinStage(nn.Module):
    """Blocks, every second one with shifted windows: (N, H * W, C) and (H, W) -> (N, H * W, C).

    Args:
        blocks: The blocks.
        downsample: Patch merging to the next stage, called by the network; None in the last stage.
    """

    def __init__(self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, size: Size) -> Tensor:
        for block in self.blocks:
            x = block(x, size)
        return x


class SwinTransformer(Pretrained, FreezableBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Sizes that are not divisible by a stride are rounded up.

    Args:
        pretrain_img_size: Side, or (height, width) in pixels, of the images that the absolute position embeddings are
            for; they are interpolated to other sizes.
        in_channels: Channels of the image.
        embed_dims: Channels of the first stage, doubled in each further one.
        patch_size: Side of a patch in pixels.
        window_size: Side of the windows in tokens.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of the channels of the stage.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        strides: Stride of each stage relative to the one before it; the first one must be ``patch_size``.
        out_indices: The stages to return, counted from 0.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Scale of the logits; 1 / sqrt(channels of a head) for None.
        patch_norm: Add norms after the patch embedding and in the patch merging.
        drop_rate: Dropout rate of the tokens, of the projections and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        use_abs_pos_embed: Add absolute position embeddings to the patches.
        act_cfg: Type of the activations.
        norm_cfg: Type of the norms and its arguments.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        frozen_stages: -1 freezes nothing, 0 the patch embedding, n also the first n stages.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"embed_dims": 8, "depths": (2, 2, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}

    def __init__(
        self,
        pretrain_img_size: PositiveInt | Sequence[PositiveInt] = 224,
        in_channels: PositiveInt = 3,
        embed_dims: PositiveInt = 96,
        patch_size: PositiveInt = 4,
        window_size: PositiveInt = 7,
        mlp_ratio: Positive = 4,
        depths: Sequence[PositiveInt] = (2, 2, 6, 2),
        num_heads: Sequence[PositiveInt] = (3, 6, 12, 24),
        strides: Sequence[PositiveInt] = (4, 2, 2, 2),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: Positive | None = None,
        patch_norm: bool = True,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.1,
        use_abs_pos_embed: bool = False,
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        with_cp: bool = False,
        pretrained: str | None = None,
        frozen_stages: int = -1,
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(embed_dims, patch_size, depths, num_heads, strides)
        self.out_indices = check_out_indices(out_indices, len(depths))
        self.frozen_stages = check_frozen_stages(frozen_stages, -1, len(depths))
        self.pretrained, self.adapt = pretrained, adapt
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
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        self.stages = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [
                SwinBlock(
                    width,
                    num_heads=num_heads[i],
                    feedforward_channels=int(mlp_ratio * width),
                    window_size=window_size,
                    shift_size=window_size // 2 if j % 2 else 0,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=next(drop_path_rates),
                    act_cfg=act_cfg,
                    norm_cfg=norm_cfg,
                    with_cp=with_cp,
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
        self._init_weights()
        self.freeze_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, size = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            x = x + resize_pos_embed(self.absolute_pos_embed, self.grid, size, mode="bicubic", extra_tokens=0)
        x = self.drop_after_pos(x)
        maps = {}
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, SwinStage)
            x = stage(x, size)
            if i in self.out_indices:
                maps[i] = nlc_to_nchw(getattr(self, f"norm{i}")(x), size)
            if stage.downsample is not None:
                x, size = stage.downsample(x, size)
        return tuple(maps[i] for i in self.out_indices)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of another image size."""
        return interpolate_pos_embed(value, self.grid, extra_tokens=0) if name == "absolute_pos_embed" else None

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=0.02)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def frozen_modules(self) -> Sequence[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f"norm{i}") for i in self.out_indices if i < self.frozen_stages]
        return [self.patch_embed, self.drop_after_pos, *self.stages[: self.frozen_stages], *norms]

    def freeze_stages(self) -> None:
        super().freeze_stages()
        if self.frozen_stages >= 0 and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)


def _grid(image_size: int | Sequence[int], patch_size: int) -> Size:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height // patch_size, width // patch_size


VARIANTS: dict[str, tuple[int, tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
"""Section 3.3 of the paper: channels of the first stage, blocks and heads of each stage."""


@factory
def swin_tiny(
    in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3, pretrained: str | None = None
) -> SwinTransformer:
    """Swin-T, 27.5 M parameters."""
    return _variant("tiny", in_channels, window_size, drop_path_rate, pretrained)


@factory
def swin_small(
    in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3, pretrained: str | None = None
) -> SwinTransformer:
    """Swin-S, 48.8 M parameters."""
    return _variant("small", in_channels, window_size, drop_path_rate, pretrained)


@factory
def swin_base(
    in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3, pretrained: str | None = None
) -> SwinTransformer:
    """Swin-B, 86.7 M parameters; windows of 12 for weights pretrained at 384 pixels."""
    return _variant("base", in_channels, window_size, drop_path_rate, pretrained)


@factory
def swin_large(
    in_channels: int = 3, window_size: int = 7, drop_path_rate: float = 0.3, pretrained: str | None = None
) -> SwinTransformer:
    """Swin-L, 195.0 M parameters; windows of 12 for weights pretrained at 384 pixels."""
    return _variant("large", in_channels, window_size, drop_path_rate, pretrained)


def _variant(
    name: str, in_channels: int, window_size: int, drop_path_rate: float, pretrained: str | None
) -> SwinTransformer:
    embed_dims, depths, num_heads = VARIANTS[name]
    return SwinTransformer(
        in_channels=in_channels,
        embed_dims=embed_dims,
        window_size=window_size,
        depths=depths,
        num_heads=num_heads,
        drop_path_rate=drop_path_rate,
        pretrained=pretrained,
    )


def _check_arguments(
    embed_dims: int, patch_size: int, depths: Sequence[int], num_heads: Sequence[int], strides: Sequence[int]
) -> None:
    check_per_stage(len(depths), {"num_heads": num_heads, "strides": strides})
    if strides[0] != patch_size:
        raise ConfigError(Problem(f"{list(strides)} must begin with the patch_size, {patch_size}", "strides"))
    for i, heads in enumerate(num_heads):
        if embed_dims * 2**i % heads:
            raise ConfigError(Problem(f"{embed_dims * 2**i} channels are not divisible by {heads} heads", "num_heads"))
