"""Transformers between feature maps and queries, with sine position encodings.

End-to-End Object Detection with Transformers (DETR), Carion et al., 2020 (https://arxiv.org/abs/2005.12872); masked
attention before self-attention: Masked-attention Mask Transformer for Universal Image Segmentation (Mask2Former),
Cheng et al., 2022 (https://arxiv.org/abs/2112.01527).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from segkernel.annotations import NonNegative, Positive, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import FFN, LayerConfig, MultiheadAttention, build_norm, checkpoint_block


class AttentionConfig(TypedDict, total=False):
    """Arguments of `build_attention`.

    Args:
        embed_dims: Channels of a token, 256 by default.
        num_heads: Attention heads, 8 by default.
        attn_drop: Dropout rate of the attention weights.
        proj_drop: Dropout rate of the output projection.
        dropout: Stands for ``attn_drop`` and for a dropout of the residual branch.
        dropout_layer: Dropout or DropPath of the residual branch.
        batch_first: Not used, accepted for existing configs: tokens are (N, L, C).
    """

    embed_dims: PositiveInt
    num_heads: PositiveInt
    attn_drop: float
    proj_drop: float
    dropout: Probability
    dropout_layer: LayerConfig | None
    batch_first: bool


class FFNConfig(TypedDict, total=False):
    """Arguments of `segkernel.nn.FFN`."""

    embed_dims: PositiveInt
    feedforward_channels: PositiveInt
    num_fcs: PositiveInt
    act_cfg: LayerConfig
    ffn_drop: float
    dropout_layer: LayerConfig | None
    add_identity: bool


class EncoderLayerConfig(TypedDict, total=False):
    """Arguments of `EncoderLayer`."""

    self_attn_cfg: AttentionConfig
    ffn_cfg: FFNConfig
    norm_cfg: LayerConfig


class DecoderLayerConfig(EncoderLayerConfig, total=False):
    """Arguments of `DecoderLayer`."""

    cross_attn_cfg: AttentionConfig


class EncoderConfig(TypedDict, total=False):
    """Arguments of `Encoder`."""

    num_layers: PositiveInt
    layer_cfg: EncoderLayerConfig
    num_cp: int


class DecoderConfig(TypedDict, total=False):
    """Arguments of `Decoder`."""

    num_layers: PositiveInt
    layer_cfg: DecoderLayerConfig
    post_norm_cfg: LayerConfig
    return_intermediate: bool


class SineConfig(TypedDict, total=False):
    """Arguments of `SinePositionalEncoding`."""

    num_feats: int
    temperature: Positive
    normalize: bool
    scale: float
    eps: NonNegative
    offset: float


class SinePositionalEncoding(nn.Module):
    """Two-dimensional sine position encoding, DETR's generalisation of Vaswani et al., 2017.

    Args:
        num_feats: Channels for the row, and as many for the column; an even number.
        temperature: Ratio of the longest to the shortest wavelength.
        normalize: Positions are divided by the height and width, and multiplied by ``scale``.
        scale: Normalised position of the last row and column, in radians.
        eps: Added to the divisor of the normalisation.
        offset: Added to positions before they are normalised; positions count from 1.

    Raises:
        ConfigError: ``num_feats`` is odd.
    """

    def __init__(
        self,
        num_feats: int,
        temperature: float = 10000,
        normalize: bool = False,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        if num_feats % 2:
            raise ConfigError(Problem(f"{num_feats} is odd, but sines and cosines come in pairs", "num_feats"))
        self.num_feats, self.temperature, self.normalize = num_feats, temperature, normalize
        self.scale, self.eps, self.offset = scale, eps, offset

    def forward(self, x: Tensor) -> Tensor:
        """Return (1, H * W, 2 * num_feats) for a map ``x`` (N, C, H, W), in its dtype."""
        rows, columns = (self._encode(length, x.device) for length in x.shape[2:])
        rows = rows[:, None].expand(-1, x.shape[3], -1)
        columns = columns[None].expand(x.shape[2], -1, -1)
        # DETR's order: the row's channels come before the column's.
        return torch.cat([rows, columns], 2).flatten(0, 1).unsqueeze(0).to(x.dtype)

    def _encode(self, length: int, device: torch.device) -> Tensor:
        """Return the encoding (length, num_feats) of the positions along one side."""
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        if self.normalize:
            position = (position + self.offset) / (position[-1:] + self.eps) * self.scale
        pair = torch.arange(self.num_feats // 2, device=device, dtype=torch.float32)
        angle = position[:, None] / self.temperature ** (2 * pair / self.num_feats)
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)  # interleaved: sin, cos, sin, cos, ...


class EncoderLayer(nn.Module):
    """Post-norm transformer layer, self-attention and `FFN`: (N, L, C) -> (N, L, C).

    Args:
        self_attn_cfg: The attention.
        ffn_cfg: The feed-forward network.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        self_attn_cfg: AttentionConfig = {},  # noqa: B006  never changed
        ffn_cfg: FFNConfig = {},  # noqa: B006
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006
    ) -> None:
        super().__init__()
        self.self_attn = build_attention(self_attn_cfg)
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, embed_dims_of(self_attn_cfg))[1] for _ in range(2))

    def forward(self, query: Tensor, query_pos: Tensor) -> Tensor:
        # Positions are added to queries and keys of every layer, but not to the values (DETR, appendix A.3).
        positioned = query + query_pos
        query = self.norms[0](self.self_attn(positioned, positioned, query, identity=query))
        return self.norms[1](self.ffn(query))


class Encoder(nn.Module):
    """Transformer encoder: tokens (N, L, C) and position encodings (1, L, C) -> (N, L, C).

    Args:
        num_layers: Number of layers.
        layer_cfg: Arguments of each layer.
        num_cp: Activation checkpointing in the first ``num_cp`` layers; -1 for none.
    """

    def __init__(
        self,
        num_layers: int = 6,
        layer_cfg: EncoderLayerConfig = {},  # noqa: B006  never changed
        num_cp: int = -1,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(**layer_cfg) for _ in range(num_layers))
        self.embed_dims = embed_dims_of(layer_cfg.get("self_attn_cfg", {}))
        self.num_cp = num_cp
        xavier_init(self)

    def forward(self, query: Tensor, query_pos: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            query = checkpoint_block(layer, query, query_pos, enabled=self.training and i < self.num_cp)
        return query


class DecoderLayer(nn.Module):
    """Post-norm transformer layer: self-attention of the queries, cross-attention to a memory, and `FFN`.

    Args:
        self_attn_cfg: The self-attention.
        cross_attn_cfg: The cross-attention.
        ffn_cfg: The feed-forward network.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        self_attn_cfg: AttentionConfig = {},  # noqa: B006  never changed
        cross_attn_cfg: AttentionConfig = {},  # noqa: B006
        ffn_cfg: FFNConfig = {},  # noqa: B006
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006
    ) -> None:
        super().__init__()
        self.self_attn = build_attention(self_attn_cfg)
        self.cross_attn = build_attention(cross_attn_cfg)
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, embed_dims_of(self_attn_cfg))[1] for _ in range(3))

    def forward(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Return the queries (N, Q, C).

        Args:
            query: (N, Q, C).
            query_pos: Position embeddings of the queries, (N or 1, Q, C).
            memory: Tokens that the queries attend to, (N, L, C).
            memory_pos: Position encodings of the memory, (N or 1, L, C).
            attn_mask: Mask of the cross-attention, bool (N, 1, Q, L), true where attention is allowed; None allows all.
        """
        query = self.norms[0](self._self_attention(query, query_pos))
        query = self.norms[1](self._cross_attention(query, query_pos, memory, memory_pos, attn_mask))
        return self.norms[2](self.ffn(query))

    def _self_attention(self, query: Tensor, query_pos: Tensor) -> Tensor:
        positioned = query + query_pos
        return self.self_attn(positioned, positioned, query, identity=query)

    def _cross_attention(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, attn_mask: Tensor | None
    ) -> Tensor:
        return self.cross_attn(query + query_pos, memory + memory_pos, memory, identity=query, mask=attn_mask)


class MaskedDecoderLayer(DecoderLayer):
    """`DecoderLayer` with cross-attention before self-attention (Mask2Former, section 3.2.2).

    Before the first layer queries are independent of the image: self-attention would only mix constants.
    """

    def forward(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, attn_mask: Tensor | None = None
    ) -> Tensor:
        query = self.norms[0](self._cross_attention(query, query_pos, memory, memory_pos, attn_mask))
        query = self.norms[1](self._self_attention(query, query_pos))
        return self.norms[2](self.ffn(query))


class Decoder(nn.Module):
    """Transformer decoder: queries after each layer, normalised for the predictions but not for the next layer.

    Args:
        num_layers: Number of layers.
        layer_cfg: Arguments of each layer.
        post_norm_cfg: Norm of the queries before predictions.
        return_intermediate: Must be true: the queries are supervised after every layer.

    Raises:
        ConfigError: ``return_intermediate`` is false.
    """

    layer_class: ClassVar[type[DecoderLayer]] = DecoderLayer

    def __init__(
        self,
        num_layers: int = 6,
        layer_cfg: DecoderLayerConfig = {},  # noqa: B006  never changed
        post_norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006
        return_intermediate: bool = True,
    ) -> None:
        super().__init__()
        if not return_intermediate:
            message = "must be true: the queries are supervised after every layer"
            raise ConfigError(Problem(message, "return_intermediate"))
        self.layers = nn.ModuleList(self.layer_class(**layer_cfg) for _ in range(num_layers))
        self.embed_dims = embed_dims_of(layer_cfg.get("self_attn_cfg", {}))
        self.post_norm = build_norm(post_norm_cfg, self.embed_dims)[1]
        xavier_init(self)

    def forward(self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor) -> list[Tensor]:
        """Return the queries (N, Q, C) after each layer; arguments are those of `DecoderLayer`."""
        outputs = []
        for layer in self.layers:
            query = layer(query, query_pos, memory, memory_pos)
            outputs.append(self.post_norm(query))
        return outputs


class MaskedDecoder(Decoder):
    """`Decoder` of `MaskedDecoderLayer`; `Mask2FormerHead` runs its layers, as each needs masks of the one before."""

    layer_class = MaskedDecoderLayer


def build_attention(cfg: AttentionConfig) -> MultiheadAttention:
    """Return the attention that a config describes."""
    dropout = cfg.get("dropout")
    return MultiheadAttention(
        embed_dims_of(cfg),
        cfg.get("num_heads", 8),
        attn_drop=cfg.get("attn_drop", 0.0) if dropout is None else dropout,
        proj_drop=cfg.get("proj_drop", 0.0),
        dropout_layer=cfg.get("dropout_layer") if dropout is None else {"type": "Dropout", "drop_prob": dropout},
    )


def embed_dims_of(cfg: AttentionConfig) -> int:
    """Return the channels of a token."""
    return cfg.get("embed_dims", 256)


def xavier_init(module: nn.Module) -> None:
    """Draw every matrix below ``module`` from Glorot and Bengio's uniform distribution (2010)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
