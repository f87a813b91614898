"""Spatial attention with four attention terms, as a plugin of a residual block.

An Empirical Study of Spatial Attention Mechanisms in Deep Networks, Zhu et al., 2019
(https://arxiv.org/abs/1904.05873). State-dict keys are MMCV's.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn import kaiming_init, resize

WAVE_LENGTH = 1000.0
"""The longest wavelength of the sinusoidal position encoding, mmcv's; Vaswani et al., 2017, have 10000."""


class GeneralizedAttention(nn.Module):
    """(N, in_channels, H, W) -> the same shape: the input plus ``gamma``, 0 at the start, times the attention.

    Args:
        in_channels: Channels of the feature map.
        spatial_range: Radius of the attention in rows and columns; -1 is unlimited.
        num_heads: Attention heads.
        position_embedding_dim: Channels of the position encoding; -1 is ``in_channels``.
        position_magnitude: Factor of the relative positions.
        kv_stride: Stride of the keys and values in pixels.
        q_stride: Stride of the queries in pixels; the result is upsampled.
        attention_type: Four digits, 1 for each term of the logits, section 3.1 of the paper: query and key content,
            query content and relative position, key content only, relative position only.

    Raises:
        ConfigError: ``attention_type`` is something else, there are more heads than channels, or the position encoding
            has channels not divisible by 4.
    """

    abbreviation: ClassVar[str] = "gen_attention_block"
    conformance: ClassVar = {"in_channels": 16, "num_heads": 2}

    def __init__(
        self,
        in_channels: PositiveInt,
        spatial_range: int = -1,
        num_heads: PositiveInt = 9,
        position_embedding_dim: int = -1,
        position_magnitude: PositiveInt = 1,
        kv_stride: PositiveInt = 2,
        q_stride: PositiveInt = 1,
        attention_type: str = "1111",
    ) -> None:
        super().__init__()
        if len(attention_type) != 4 or not set(attention_type) <= {"0", "1"} or "1" not in attention_type:
            raise ConfigError(Problem(f"{attention_type!r} is not four digits 0 or 1", "attention_type"))
        if num_heads > in_channels:
            raise ConfigError(Problem(f"{num_heads} heads for {in_channels} channels", "num_heads"))
        self.spatial_range, self.num_heads, self.position_magnitude = spatial_range, num_heads, position_magnitude
        self.kv_stride, self.q_stride = kv_stride, q_stride
        self.terms = tuple(digit == "1" for digit in attention_type)
        self.head_dim = in_channels // num_heads
        self.encoding_dim = position_embedding_dim if position_embedding_dim > 0 else in_channels
        if self.encoding_dim % 4:
            raise ConfigError(Problem(f"{self.encoding_dim} is not divisible by 4", "position_embedding_dim"))
        inner = self.head_dim * num_heads
        content, position, key_only, position_only = self.terms
        self.query_conv = nn.Conv2d(in_channels, inner, 1, bias=False) if content or position else None
        self.key_conv = nn.Conv2d(in_channels, inner, 1, bias=False) if content or key_only else None
        self.value_conv = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.appr_geom_fc_x = self.appr_geom_fc_y = None
        if position or position_only:
            self.appr_geom_fc_x = nn.Linear(self.encoding_dim // 2, inner, bias=False)
            self.appr_geom_fc_y = nn.Linear(self.encoding_dim // 2, inner, bias=False)
        bound = 1 / math.sqrt(2 * self.head_dim)
        self.appr_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound)) if key_only else None
        self.geom_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound)) if position_only else None
        self.proj_conv = nn.Conv2d(inner, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        for conv in (self.query_conv, self.key_conv, self.value_conv, self.proj_conv):
            if conv is not None:
                kaiming_init(conv)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys = x[..., :: self.q_stride, :: self.q_stride], x[..., :: self.kv_stride, :: self.kv_stride]
        size = queries.shape[2:]
        # The logits are not divided by the square root of the head's channels, as in mmcv.
        weights = self._logits(queries, keys).flatten(4).flatten(2, 3).softmax(-1)
        attended = weights @ self._heads(self.value_conv(keys)).flatten(2, 3)
        out = self.proj_conv(attended.transpose(2, 3).flatten(1, 2).unflatten(2, size))
        return x + self.gamma * (out if self.q_stride == 1 else resize(out, x.shape[2:]))

    def _heads(self, x: Tensor) -> Tensor:
        """(N, heads * dim, h, w) -> (N, heads, h, w, dim)."""
        return x.unflatten(1, (self.num_heads, self.head_dim)).movedim(2, 4)

    def _logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return (N, heads, h, w, hk, wk) for queries of h x w and keys of hk x wk pixels."""
        (height, width), (key_height, key_width) = queries.shape[2:], keys.shape[2:]
        logits: Any = 0.0
        content, position = self.terms[:2]
        query = queries.new_zeros(1) if self.query_conv is None else self._heads(self.query_conv(queries))
        if self.key_conv is not None:
            # Key content only is a query that is the same everywhere, a bias.
            content_query = query * content + self._bias(self.appr_bias)
            key = self._heads(self.key_conv(keys))
            content_query = content_query.expand(*key.shape[:2], height, width, -1)
            logits = torch.einsum("nahwc,naijc->nahwij", content_query, key)
        if self.appr_geom_fc_x is not None and self.appr_geom_fc_y is not None:
            position_query = query * position + self._bias(self.geom_bias)
            position_query = position_query.expand(queries.shape[0], -1, height, width, -1)
            rows = self._position_encoding(self.appr_geom_fc_y, height, key_height, queries)
            columns = self._position_encoding(self.appr_geom_fc_x, width, key_width, queries)
            logits = logits + torch.einsum("nahwc,hiac->nahwi", position_query, rows)[..., None]
            logits = logits + torch.einsum("nahwc,wjac->nahwj", position_query, columns)[..., None, :]
        return logits if self.spatial_range < 0 else logits.masked_fill(self._out_of_range(logits), -torch.inf)

    def _bias(self, bias: Tensor | None) -> Tensor | float:
        return 0.0 if bias is None else bias.view(1, self.num_heads, 1, 1, self.head_dim)

    def _position_encoding(self, layer: nn.Linear, size: int, key_size: int, like: Tensor) -> Tensor:
        """Return the encoding of the relative positions along one axis: (size, key_size, heads, dim)."""
        distances = self._positions(size, self.q_stride, like)[:, None] - self._positions(
            key_size, self.kv_stride, like
        )
        steps = torch.arange(0, self.encoding_dim / 4, device=like.device)
        angles = (distances * self.position_magnitude)[..., None] / WAVE_LENGTH ** (4 / self.encoding_dim * steps)
        encoding = layer(torch.cat([angles.sin(), angles.cos()], -1).to(like.dtype))
        # mmcv's factor for the sum of two encodings, of rows and of columns.
        return encoding.unflatten(-1, (self.num_heads, self.head_dim)) / math.sqrt(2)

    def _out_of_range(self, logits: Tensor) -> Tensor:
        """Return whether a key is outside of the spatial range of a query, (h, w, hk, wk)."""
        height, width, key_height, key_width = logits.shape[2:]
        rows, columns = self._outside(height, key_height, logits), self._outside(width, key_width, logits)
        return rows[:, None, :, None] | columns[None, :, None, :]

    def _outside(self, size: int, key_size: int, like: Tensor) -> Tensor:
        query, key = torch.arange(size, device=like.device)[:, None], torch.arange(key_size, device=like.device)
        first = (query - self.spatial_range).div(self.kv_stride, rounding_mode="floor").clamp(min=0)
        last = (query + self.spatial_range + 1).div(self.kv_stride, rounding_mode="floor")
        return (key < first) | (key > last)

    @staticmethod
    def _positions(size: int, stride: int, like: Tensor) -> Tensor:
        return torch.arange(size, device=like.device) * stride

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints with a ``spatial_range`` hold the mask as a buffer; here it is computed for any size.
        state_dict.pop(f"{prefix}local_constraint_map", None)
        super()._load_from_state_dict(state_dict, prefix, *args)
