"""Twins: hierarchical transformers whose position encoding is a convolution, which fits any image size.

    features = pcpvt_small()(torch.rand(2, 3, 512, 512))  # 64, 128, 320, 512 channels at strides 4, 8, 16, 32
    features = svt_small()(torch.rand(2, 3, 512, 512))    # 64, 128, 256, 512 channels

`PCPVT` has global attention with subsampled keys; `SVT` alternates it with attention within windows.

Twins: Revisiting the Design of Spatial Attention in Vision Transformers, Chu et al., 2021
(https://arxiv.org/abs/2104.13840).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    FFN,
    LayerConfig,
    PatchEmbed,
    build_dropout,
    build_norm,
    check_out_indices,
    check_per_stage,
    linear_drop_path_rates,
    nchw_to_nlc,
    nlc_to_nchw,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.factory import factory
from segplug_backbones.init import pvt_init
from segplug_backbones.mit import EfficientMultiheadAttention
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.windows import (
    Size,
    count_windows,
    crop_to_size,
    pad_to_windows,
    window_attention_mask,
    window_partition,
    window_reverse,
)

MASKED = -1000.0
"""Attention mask between tokens and padding; the authors' value."""


class GSAEncoderLayer(nn.Module):
    """Global sub-sampled attention and a feed-forward network, each after a norm.

    (N, H * W, C) and (H, W) -> (N, H * W, C).

    Args:
        embed_dims: C.
        num_heads: Attention heads.
        feedforward_channels: Hidden width of the feed-forward network.
        sr_ratio: Subsampling of keys and values per side.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout rate of the projection and in the feed-forward network.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate, applied twice to both branches.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        embed_dims: int,
        *,
        num_heads: int,
        feedforward_channels: int,
        sr_ratio: int,
        qkv_bias: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = EfficientMultiheadAttention(
            embed_dims,
            num_heads=num_heads,
            sr_ratio=sr_ratio,
            norm_cfg=norm_cfg,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=_applied_twice(drop_path_rate),
        )
        self.norm2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = _feed_forward(embed_dims, feedforward_channels, drop_rate, _applied_twice(drop_path_rate))

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = self.attn(self.norm1(x), size, identity=x)
        return self.ffn(self.norm2(x), identity=x)


class LocallyGroupedSelfAttention(nn.Module):
    """Attention within windows of ``window_size`` x ``window_size`` tokens: (N, H * W, C), (H, W) -> (N, H * W, C).

    The map is padded to whole windows. As in the authors' code, the padding is masked only if there is padding both at
    the bottom and at the right.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        window_size: Side of a window in tokens.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Scale of the logits; 1 / sqrt(channels of a head) for None.
        attn_drop_rate: Dropout rate of the attention weights.
        proj_drop_rate: Dropout rate of the output projection.

    Raises:
        ConfigError: ``embed_dims`` is not divisible by ``num_heads``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: int,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ConfigError(Problem(f"{embed_dims} channels are not divisible by {num_heads} heads", "num_heads"))
        self.num_heads, self.window_size = num_heads, window_size
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        window_size, num_windows = self.window_size, count_windows(size, self.window_size)
        grid = pad_to_windows(x.unflatten(1, size), num_windows, window_size)
        windows = window_partition(grid, num_windows, window_size)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        rows, columns = (self._is_padding(*lengths, x.device) for lengths in zip(size, num_windows, strict=True))
        mask = window_attention_mask(rows[:, None] | columns, num_windows, window_size, MASKED, x.dtype)
        weights = ((q * self.scale) @ k.transpose(-2, -1) + mask.unsqueeze(1)).softmax(-1)
        attended = (self.attn_drop(weights) @ v).transpose(2, 3).flatten(3)
        grid = crop_to_size(window_reverse(attended, num_windows, window_size), size)
        return self.proj_drop(self.proj(grid.flatten(1, 2)))

    def _is_padding(self, length: int, count: int, device: torch.device) -> Tensor:
        """Return for each row, or column, whether it is padding, or true for all if there is none.

        All true on one axis puts all tokens into one region, and so none is masked: the authors' condition, without a
        branch on sizes that may be symbols.
        """
        padded = count * self.window_size
        # length % padded is `length` if there is padding, and 0 if length == padded.
        return torch.arange(padded, device=device) >= length % padded


class LSAEncoderLayer(nn.Module):
    """Locally-grouped attention, within windows, and a feed-forward network, each after a norm.

    (N, H * W, C) and (H, W) -> (N, H * W, C). The arguments are those of `GSAEncoderLayer`, with ``window_size``, the
    side of a window in tokens, in place of ``sr_ratio``; ``drop_path_rate`` is applied once to the attention.
    """

    def __init__(
        self,
        embed_dims: int,
        *,
        num_heads: int,
        feedforward_channels: int,
        window_size: int,
        qkv_bias: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = LocallyGroupedSelfAttention(
            embed_dims,
            num_heads,
            window_size,
            qkv_bias=qkv_bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
        )
        self.norm2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = _feed_forward(embed_dims, feedforward_channels, drop_rate, _applied_twice(drop_path_rate))
        self.drop_path = build_dropout({"type": "DropPath", "drop_prob": drop_path_rate})

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return self.ffn(self.norm2(x), identity=x)


class ConditionalPositionEncoding(nn.Module):
    """Conditional position encoding: a depthwise 3x3 convolution, added to the tokens if ``stride`` is 1.

    (N, H * W, in_channels) and (H, W) -> (N, ~H * W / stride^2, embed_dims). The zero padding of the convolution tells
    tokens where they are (Chu et al., Conditional Positional Encodings for Vision Transformers, 2021).
    """

    def __init__(self, in_channels: int, embed_dims: int = 768, stride: int = 1) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dims, 3, stride=stride, padding=1, groups=embed_dims)
        self.stride = stride

    def forward(self, x: Tensor, size: Size) -> Tensor:
        encoded = nchw_to_nlc(self.proj(nlc_to_nchw(x, size)))
        return x + encoded if self.stride == 1 else encoded


class PCPVT(Pretrained, Backbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 4, 8, 16, 32 by default.

    Odd sizes are rounded up. With the default ``sr_ratios`` an image needs 29 pixels a side at least.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of each stage.
        patch_sizes: Side of the patches that each stage starts with, in pixels of its input.
        strides: Step between those patches.
        num_heads: Attention heads of each stage.
        mlp_ratios: Hidden width of the feed-forward networks of each stage, as a multiple of its channels.
        out_indices: The stages to return, counted from 0.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout rate of the tokens, of the projections and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one. Most branches have
            two drop paths in a row in MMSegmentation, and so here: a rate p acts as 1 - (1 - p)^2, but for attention
            within windows.
        norm_cfg: Type of the norms and its arguments.
        depths: Layers of each stage.
        sr_ratios: Subsampling of the keys and values of each stage per side.
        norm_after_stage: Whether each stage ends with a norm.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar[Any] = {"embed_dims": (8, 8, 16, 16), "depths": (1, 2, 1, 1)}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        embed_dims: Sequence[PositiveInt] = (64, 128, 256, 512),
        patch_sizes: Sequence[PositiveInt] = (4, 2, 2, 2),
        strides: Sequence[PositiveInt] = (4, 2, 2, 2),
        num_heads: Sequence[PositiveInt] = (1, 2, 4, 8),
        mlp_ratios: Sequence[Positive] = (4, 4, 4, 4),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = False,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        depths: Sequence[PositiveInt] = (3, 4, 6, 3),
        sr_ratios: Sequence[PositiveInt] = (8, 4, 2, 1),
        norm_after_stage: bool = False,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__()
        per_stage = {
            "embed_dims": embed_dims,
            "patch_sizes": patch_sizes,
            "strides": strides,
            "num_heads": num_heads,
            "mlp_ratios": mlp_ratios,
            "sr_ratios": sr_ratios,
        }
        check_per_stage(len(depths), per_stage)
        self.out_indices, self.pretrained = check_out_indices(out_indices, len(depths)), pretrained
        self.adapt = adapt
        inputs = [in_channels, *embed_dims]
        self.patch_embeds = nn.ModuleList(
            PatchEmbed(inputs[i], width, kernel_size=patch_sizes[i], stride=strides[i], norm_cfg=norm_cfg)
            for i, width in enumerate(embed_dims)
        )
        self.position_encoding_drops = nn.ModuleList(nn.Dropout(drop_rate) for _ in embed_dims)
        self.position_encodings = nn.ModuleList(ConditionalPositionEncoding(width, width) for width in embed_dims)
        self.layers = nn.ModuleList()
        drop_path_rates = iter(linear_drop_path_rates(drop_path_rate, sum(depths)))
        for i, depth in enumerate(depths):
            layers = [
                GSAEncoderLayer(
                    embed_dims[i],
                    num_heads=num_heads[i],
                    feedforward_channels=int(mlp_ratios[i] * embed_dims[i]),
                    sr_ratio=sr_ratios[i],
                    qkv_bias=qkv_bias,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=next(drop_path_rates),
                    norm_cfg=norm_cfg,
                )
                for _ in range(depth)
            ]
            self.layers.append(nn.ModuleList(layers))
        norms = (build_norm(norm_cfg, width)[1] for width in embed_dims)
        self.norm_list = nn.ModuleList(norms) if norm_after_stage else None
        self.channels = tuple(embed_dims[i] for i in self.out_indices)
        self.strides = tuple(math.prod(strides[: i + 1]) for i in self.out_indices)
        self.apply(pvt_init)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, channels[i], ~H / strides[i], ~W / strides[i])."""
        x, maps = images, []
        stages: Any = self.layers  # a list of lists of layers
        for i, layers in enumerate(stages):
            tokens, size = self.patch_embeds[i](x)
            tokens = self.position_encoding_drops[i](tokens)
            for j, layer in enumerate(layers):
                tokens = layer(tokens, size)
                if j == 0:  # the position encoding follows the first layer of each stage, figure 1 of the paper
                    tokens = self.position_encodings[i](tokens, size)
            x = nlc_to_nchw(tokens if self.norm_list is None else self.norm_list[i](tokens), size)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)


class SVT(PCPVT):
    """`PCPVT` in which layers 0, 2, 4, ... of each stage have attention within windows.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of each stage.
        patch_sizes: Side of the patches that each stage starts with, in pixels of its input.
        strides: Step between those patches.
        num_heads: Attention heads of each stage.
        mlp_ratios: Hidden width of the feed-forward networks of each stage, as a multiple of its channels.
        out_indices: The stages to return, counted from 0; indices of stages that do not exist are ignored.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout rate of the tokens, of the projections and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one. Most branches have
            two drop paths in a row in MMSegmentation, and so here: a rate p acts as 1 - (1 - p)^2, but for attention
            within windows.
        norm_cfg: Type of the norms and its arguments.
        depths: Layers of each stage.
        sr_ratios: Subsampling of the keys and values of each stage per side.
        windiow_sizes: Side of the windows of each stage in tokens; the spelling is MMSegmentation's.
        norm_after_stage: Whether each stage ends with a norm.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = {"embed_dims": (8, 8, 16), "depths": (1, 2, 2)}

    def __init__(
        self,
        in_channels: PositiveInt = 3,
        embed_dims: Sequence[PositiveInt] = (64, 128, 256),
        patch_sizes: Sequence[PositiveInt] = (4, 2, 2),
        strides: Sequence[PositiveInt] = (4, 2, 2),
        num_heads: Sequence[PositiveInt] = (1, 2, 4),
        mlp_ratios: Sequence[Positive] = (4, 4, 4),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        qkv_bias: bool = False,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        depths: Sequence[PositiveInt] = (4, 4, 4),
        sr_ratios: Sequence[PositiveInt] = (4, 2, 1),
        windiow_sizes: Sequence[PositiveInt] = (7, 7, 7),
        norm_after_stage: bool = True,
        pretrained: str | None = None,
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            embed_dims=embed_dims,
            patch_sizes=patch_sizes,
            strides=strides,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            out_indices=[i for i in out_indices if i < len(depths)],
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
            norm_cfg=norm_cfg,
            depths=depths,
            sr_ratios=sr_ratios,
            norm_after_stage=norm_after_stage,
            pretrained=pretrained,
            adapt=adapt,
        )
        check_per_stage(len(depths), {"windiow_sizes": windiow_sizes})
        drop_path_rates = linear_drop_path_rates(drop_path_rate, sum(depths))
        for i, depth in enumerate(depths):
            for j in range(0, depth, 2):
                layer = LSAEncoderLayer(
                    embed_dims[i],
                    num_heads=num_heads[i],
                    feedforward_channels=int(mlp_ratios[i] * embed_dims[i]),
                    window_size=windiow_sizes[i],
                    qkv_bias=qkv_bias,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=drop_path_rates[sum(depths[:i]) + j],
                    norm_cfg=norm_cfg,
                )
                layer.apply(pvt_init)
                self.layers[i][j] = layer  # type: ignore[operator]  # a ModuleList of ModuleLists


PCPVT_DEPTHS = {"small": (3, 4, 6, 3), "base": (3, 4, 18, 3), "large": (3, 8, 27, 3)}
"""Table 1 of the paper: layers of each stage."""
SVT_VARIANTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "small": ((64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 10, 4)),
    "base": ((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 18, 2)),
    "large": ((128, 256, 512, 1024), (4, 8, 16, 32), (2, 2, 18, 2)),
}
"""Table 2 of the paper: channels, heads and layers of each stage."""


@factory
def pcpvt_small(in_channels: int = 3, drop_path_rate: float = 0.2, pretrained: str | None = None) -> PCPVT:
    """Twins-PCPVT-S, 23.6 M parameters."""
    return _pcpvt("small", in_channels, drop_path_rate, pretrained)


@factory
def pcpvt_base(in_channels: int = 3, drop_path_rate: float = 0.2, pretrained: str | None = None) -> PCPVT:
    """Twins-PCPVT-B, 43.3 M parameters."""
    return _pcpvt("base", in_channels, drop_path_rate, pretrained)


@factory
def pcpvt_large(in_channels: int = 3, drop_path_rate: float = 0.2, pretrained: str | None = None) -> PCPVT:
    """Twins-PCPVT-L, 60.5 M parameters."""
    return _pcpvt("large", in_channels, drop_path_rate, pretrained)


@factory
def svt_small(in_channels: int = 3, drop_path_rate: float = 0.2, pretrained: str | None = None) -> SVT:
    """Twins-SVT-S, 23.5 M parameters."""
    return _svt("small", in_channels, drop_path_rate, pretrained)


@factory
def svt_base(in_channels: int = 3, drop_path_rate: float = 0.2, pretrained: str | None = None) -> SVT:
    """Twins-SVT-B, 55.3 M parameters."""
    return _svt("base", in_channels, drop_path_rate, pretrained)


@factory
def svt_large(in_channels: int = 3, drop_path_rate: float = 0.3, pretrained: str | None = None) -> SVT:
    """Twins-SVT-L, 98.2 M parameters."""
    return _svt("large", in_channels, drop_path_rate, pretrained)


def _pcpvt(name: str, in_channels: int, drop_path_rate: float, pretrained: str | None) -> PCPVT:
    return PCPVT(
        in_channels,
        embed_dims=(64, 128, 320, 512),
        num_heads=(1, 2, 5, 8),
        mlp_ratios=(8, 8, 4, 4),  # PVT's, as its widths and heads
        qkv_bias=True,
        depths=PCPVT_DEPTHS[name],
        drop_path_rate=drop_path_rate,
        pretrained=pretrained,
    )


def _svt(name: str, in_channels: int, drop_path_rate: float, pretrained: str | None) -> SVT:
    embed_dims, num_heads, depths = SVT_VARIANTS[name]
    return SVT(
        in_channels,
        embed_dims,
        patch_sizes=(4, 2, 2, 2),
        strides=(4, 2, 2, 2),
        num_heads=num_heads,
        mlp_ratios=(4, 4, 4, 4),
        out_indices=(0, 1, 2, 3),
        qkv_bias=True,
        drop_path_rate=drop_path_rate,
        depths=depths,
        sr_ratios=(8, 4, 2, 1),
        windiow_sizes=(7, 7, 7, 7),
        pretrained=pretrained,
    )


def _feed_forward(embed_dims: int, hidden: int, drop_rate: float, drop_path_rate: float) -> FFN:
    drop_path = {"type": "DropPath", "drop_prob": drop_path_rate}
    return FFN(embed_dims, hidden, act_cfg={"type": "GELU"}, ffn_drop=drop_rate, dropout_layer=drop_path)


def _applied_twice(rate: float) -> float:
    """Return the drop path rate that is equal to two drop paths in a row, as MMSegmentation has them."""
    return 1 - (1 - rate) ** 2
