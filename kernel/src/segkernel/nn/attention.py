"""Attention and feed-forward blocks of transformers (Vaswani et al., 2017), with MMSegmentation's state-dict keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segkernel.errors import ConfigError, Problem
from segkernel.nn.layers import LayerConfig, build_activation, build_dropout, build_norm


class DotProductAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes and how it is keyed, on (N, L, C), exportable with any L.

    Args:
        embed_dims: C.
        num_heads: Parts that C is cut into.
        dropout: Share of attention weights dropped in training.
        bias: Of the projections.
    """

    def __init__(self, embed_dims: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ConfigError(Problem(f"{embed_dims} channels cannot be cut into {num_heads} heads", "num_heads"))
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dims, embed_dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dims)) if bias else None
        self.out_proj = nn.Linear(embed_dims, embed_dims, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (N, L, C) for a ``query`` (N, L, C) and ``key`` and ``value`` (N, S, C).

        ``mask``, (L, S) or (N, heads, L, S), is added to the scores, or bool and true where attention is allowed.
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
        num_heads: Parts that C is cut into.
        attn_drop: Share of attention weights dropped.
        proj_drop: Share of outputs dropped.
        dropout_layer: Dropout or DropPath before the residual is added.
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
        """Return ``identity`` plus what ``query`` finds; key, value and identity default to it.

        ``mask`` is that of `DotProductAttention`.
        """
        key = query if key is None else key
        attended = self.attn(query, key, key if value is None else value, mask)
        return (query if identity is None else identity) + self.dropout_layer(self.proj_drop(attended))


class FFN(nn.Module):
    """Fully connected layers with a residual connection, on (..., C).

    Args:
        embed_dims: C.
        feedforward_channels: Width of the hidden layers.
        num_fcs: Number of layers, two at least.
        act_cfg: Between layers.
        ffn_drop: Share of values dropped after each layer.
        dropout_layer: Dropout or DropPath before the residual is added.
        add_identity: Whether the input is added.
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
            raise ConfigError(Problem(f"{num_fcs} layers, two at least are needed", "num_fcs"))
        widths = [embed_dims, *[feedforward_channels] * (num_fcs - 1)]
        hidden = [
            nn.Sequential(nn.Linear(width, feedforward_channels), build_activation(act_cfg), nn.Dropout(ffn_drop))
            for width in widths[:-1]
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], embed_dims), nn.Dropout(ffn_drop))
        self.dropout_layer = build_dropout(dropout_layer)
        self.add_identity = add_identity

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Return the layers' output, plus ``identity``, by default ``x``."""
        out = self.dropout_layer(self.layers(x))
        if not self.add_identity:
            return out
        return (x if identity is None else identity) + out


class TransformerEncoderLayer(nn.Module):
    """A layer of a plain vision transformer: attention, then `FFN`, each after a norm: (N, L, C) -> (N, L, C).

    Dosovitskiy et al., An Image is Worth 16x16 Words, 2021.

    Args:
        embed_dims: C.
        num_heads: Parts that C is cut into.
        feedforward_channels: Width of the `FFN`.
        drop_rate: Share of values dropped after attention and in the `FFN`.
        attn_drop_rate: Share of attention weights dropped.
        drop_path_rate: Share of images that skip the `FFN`.
        num_fcs: Fully connected layers of the `FFN`.
        qkv_bias: Whether the projections of the attention have a bias.
        act_cfg: Kind of activation.
        norm_cfg: Kind of norm.
        with_cp: Compute activations a second time in backward, to save memory.
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
        drop_path = {"type": "DropPath", "drop_prob": drop_path_rate}
        self.ffn = FFN(embed_dims, feedforward_channels, num_fcs, act_cfg, drop_rate, drop_path)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and torch.is_grad_enabled() and x.requires_grad:
            return checkpoint(self._run, x, use_reentrant=False)
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        x = self.attn(self.ln1(x), identity=x)
        return self.ffn(self.ln2(x), identity=x)
