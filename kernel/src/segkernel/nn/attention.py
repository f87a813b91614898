"""Attention and feed-forward blocks of transformers, with MMSegmentation's state-dict keys.

Attention Is All You Need, Vaswani et al., 2017 (https://arxiv.org/abs/1706.03762).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.errors import ConfigError, Problem
from segkernel.nn.checkpointing import checkpoint_block
from segkernel.nn.layers import LayerConfig, build_activation, build_dropout, build_norm


def single_head_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return softmax(``scale`` query key^T) value: (N, L, D), (N, S, D) and (N, S, C) -> (N, L, C)."""
    # The fused kernels, which do not store the (L, S) weights, and the exporters need a dimension of heads.
    query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
    return F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1)


class DotProductAttention(nn.Module):
    """``nn.MultiheadAttention`` on (N, L, C), with the same state-dict keys, exportable with dynamic L.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        dropout: Dropout rate of the attention weights.
        bias: Whether the projections have a bias.

    Raises:
        ConfigError: ``embed_dims`` is not divisible by ``num_heads``.
    """

    def __init__(self, embed_dims: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ConfigError(Problem(f"{embed_dims} channels are not divisible by {num_heads} heads", "num_heads"))
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, L, C) for a ``query`` (N, L, C) and ``key`` and ``value`` (N, S, C).

        Args:
            mask: (L, S) or (N, heads, L, S), added to the logits of the attention; or bool, true where attention is
                allowed.
        """
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        attended = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MultiheadAttention(nn.Module):
    """Attention with dropout and a residual connection, on (N, L, C).

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output projection.
        dropout_layer: Dropout or DropPath of the residual branch.
        qkv_bias: Whether the projections have a bias.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        dropout_layer: LayerConfig | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.attn = DotProductAttention(embed_dims, num_heads, attn_drop, qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)
        self.dropout_layer = build_dropout(dropout_layer)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return ``identity`` plus the attention of ``query`` to ``key`` and ``value``.

        Args:
            key: ``query`` by default.
            value: ``key`` by default.
            identity: The residual connection, ``query`` by default.
            mask: As in `DotProductAttention`.
        """
        key = query if key is None else key
        attended = self.attn(query, key, key if value is None else value, mask)
        return (query if identity is None else identity) + self.dropout_layer(self.proj_drop(attended))


class FFN(nn.Module):
    """Feed-forward network with a residual connection, on (..., C).

    Args:
        embed_dims: C.
        feedforward_channels: Width of the hidden layers.
        num_fcs: Linear layers, at least two.
        act_cfg: Activation between them.
        ffn_drop: Dropout rate after each linear layer.
        dropout_layer: Dropout or DropPath of the residual branch.
        add_identity: Whether there is a residual connection.

    Raises:
        ConfigError: ``num_fcs`` is less than two.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        feedforward_channels: int = 1024,
        num_fcs: int = 2,
        act_cfg: LayerConfig = {"type": "ReLU", "inplace": True},  # noqa: B006  never changed
        ffn_drop: float = 0.0,
        dropout_layer: LayerConfig | None = None,
        add_identity: bool = True,
    ) -> None:
        super().__init__()
        if num_fcs < 2:
            raise ConfigError(Problem(f"{num_fcs} linear layers; at least 2 are needed", "num_fcs"))
        widths = [embed_dims, *[feedforward_channels] * (num_fcs - 1)]
        hidden = [
            nn.Sequential(nn.Linear(width, feedforward_channels), build_activation(act_cfg), nn.Dropout(ffn_drop))
            for width in widths[:-1]
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], embed_dims), nn.Dropout(ffn_drop))
        self.dropout_layer = build_dropout(dropout_layer)
        self.add_identity = add_identity

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Return the output of the layers, plus ``identity``, which is ``x`` by default."""
        out = self.dropout_layer(self.layers(x))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


class TransformerEncoderLayer(nn.Module):
    """A pre-norm layer of a vision transformer, attention and `FFN`: (N, L, C) -> (N, L, C).

    An Image is Worth 16x16 Words, Dosovitskiy et al., 2021, equations 2 and 3.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        feedforward_channels: Hidden width of the `FFN`.
        drop_rate: Dropout rate of the output projection and in the `FFN`.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the `FFN`; as in MMSegmentation, the attention has none.
        num_fcs: Linear layers of the `FFN`.
        qkv_bias: Whether the projections of the attention have a bias.
        act_cfg: Activation of the `FFN`.
        norm_cfg: Norm before attention and `FFN`.
        with_cp: Activation checkpointing.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        act_cfg: LayerConfig = {"type": "GELU"},  # noqa: B006  never changed
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006  never changed
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.ln1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = MultiheadAttention(embed_dims, num_heads, attn_drop_rate, drop_rate, qkv_bias=qkv_bias)
        self.ln2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = FFN(
            embed_dims,
            feedforward_channels,
            num_fcs=num_fcs,
            act_cfg=act_cfg,
            ffn_drop=drop_rate,
            dropout_layer={"type": "DropPath", "drop_prob": drop_path_rate},
        )
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint_block(self, x, forward=self._forward, enabled=self.with_cp)

    def _forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.ln1(x), identity=x)
        return self.ffn(self.ln2(x), identity=x)
