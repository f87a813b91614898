"""U-MixFormer: each level of the decoder attends to a mixture of all levels, those already decoded in their new form.

U-MixFormer: UNet-like Transformer with Mix-Attention for Efficient Semantic Segmentation, Yeom and von Klitzing, 2023
(https://arxiv.org/abs/2312.06272). State-dict keys are the authors'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import (
    ConvModule,
    DecodeHead,
    DropPath,
    MultiLevelHeadArguments,
    nchw_to_nlc,
    nlc_to_nchw,
    normal_init,
    resize,
    trunc_normal_init,
)

NAMES = ("c4", "c3", "c2", "c1")
"""The authors' names of the levels, coarsest first."""


class UMixFormerHead(DecodeHead):
    """Four feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        num_heads: Heads of the attention of each level, coarsest first.
        pool_ratios: Factor by which each level is pooled to be mixed, coarsest first.
        drop_path_rate: Drop path rate of the attention and the feed-forward parts.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "in_channels": [8, 16, 20, 32], "in_index": [0, 1, 2, 3], "channels": 8, "num_classes": 4,
        "norm_cfg": {"type": "BN"},
    }  # fmt: skip

    def __init__(
        self,
        num_heads: Sequence[PositiveInt] = (8, 5, 2, 1),
        pool_ratios: Sequence[PositiveInt] = (1, 2, 4, 8),
        drop_path_rate: Probability = 0.1,
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        if {len(num_heads), len(pool_ratios), len(self.in_channels)} != {4}:
            raise ConfigError(Problem("the head has four levels, with one number of heads and one ratio each"))
        mixed, widths = sum(self.in_channels), [*reversed(self.in_channels)]
        for i, (name, width, heads) in enumerate(zip(NAMES, widths, num_heads, strict=True)):
            if width % heads:
                raise ConfigError(Problem(f"{width} channels are not divisible by {heads} heads", "num_heads"))
            self.add_module(f"cat_key{i + 1}", Mix(widths, pool_ratios))
            self.add_module(f"attn_{name}", MixAttentionBlock(width, mixed, heads, drop_path_rate))
        self.linear_fuse = ConvModule(mixed, self.channels, 1, **self.layer_cfgs)
        del self.conv_seg  # it has another name in published weights
        self.linear_pred = nn.Conv2d(self.channels, self.out_channels, 1)
        normal_init(self.linear_pred, std=0.01)

    def forward_feature(self, features: Features) -> Tensor:
        levels = self.select(features)[::-1]
        for i, name in enumerate(NAMES):
            mixed = getattr(self, f"cat_key{i + 1}")(levels)
            levels[i] = getattr(self, f"attn_{name}")(levels[i], mixed)
        size = levels[-1].shape[2:]
        return self.linear_fuse(torch.cat([*(resize(level, size) for level in levels[:-1]), levels[-1]], 1))

    def cls_seg(self, x: Tensor) -> Tensor:
        return self.linear_pred(x if self.dropout is None else self.dropout(x))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Published weights hold layers that the authors' code builds but does not use, here and in the attention.
        for name in ("weight", "bias"):
            state_dict.pop(f"{prefix}conv_seg.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Mix(nn.Module):
    """Levels pooled to one size and concatenated: maps, coarsest first -> (N, sum of channels, h, w)."""

    def __init__(self, channels: Sequence[int], pool_ratios: Sequence[int]) -> None:
        super().__init__()
        self.pool_ratios = pool_ratios
        self.sr_list = nn.ModuleList(nn.Conv2d(c, c, 1) for c, ratio in zip(channels, pool_ratios) if ratio > 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        convs, mixed = iter(self.sr_list), []
        for level, ratio in zip(levels, self.pool_ratios, strict=True):
            mixed.append(next(convs)(F.avg_pool2d(level, ratio, ceil_mode=True)) if ratio > 1 else level)
        return torch.cat(mixed, 1)


class MixAttentionBlock(nn.Module):
    """Attention of a level to the mixture and feed-forward part: (N, C, H, W), (N, D, h, w) -> (N, C, H, W)."""

    def __init__(self, channels: int, mixed_channels: int, num_heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(c) for c in (channels, mixed_channels, channels))
        self.attn = MixAttention(channels, mixed_channels, num_heads)
        self.mlp = FeedForward(channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        # The residual connections start after the norms.
        tokens = self.norm1(nchw_to_nlc(x))
        tokens = tokens + self.drop_path(self.attn(tokens, self.norm2(nchw_to_nlc(mixed))))
        tokens = self.norm3(tokens)
        return nlc_to_nchw(tokens + self.drop_path(self.mlp(tokens, size)), size)


class MixAttention(nn.Module):
    """Attention of tokens (N, L, C) to those of the mixture (N, M, D) -> (N, L, C)."""

    def __init__(self, channels: int, mixed_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(mixed_channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        for layer in (self.q, self.kv, self.proj):
            trunc_normal_init(layer)

    def forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        query = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.kv(F.gelu(mixed)).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("sr.weight", "sr.bias", "norm.weight", "norm.bias"):
            state_dict.pop(f"{prefix}{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class FeedForward(nn.Module):
    """Two linear layers with a depthwise 3x3 convolution between them: (N, H * W, C) -> the same shape."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = ratio * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})
        self.fc2 = nn.Linear(hidden, channels)
        trunc_normal_init(self.fc1)
        trunc_normal_init(self.fc2)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = self.dwconv["dwconv"](nlc_to_nchw(self.fc1(x), size))
        return self.fc2(F.gelu(nchw_to_nlc(x)))
