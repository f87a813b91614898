"""Transformers between feature maps and queries, with sine position encodings.

Carion et al., End-to-End Object Detection with Transformers (DETR), 2020; the layer that attends to masked regions
first is that of Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation (Mask2Former), 2022.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import TypedDict

from segkernel.errors import ConfigError, Problem
from segkernel.nn import FFN, LayerConfig, MultiheadAttention, build_norm


class AttentionConfig(TypedDict, total=False):
    """Arguments of an attention; ``dropout`` stands for ``attn_drop`` and for the dropout before the residual.

    Tokens are (N, L, C) whatever ``batch_first`` says.
    """

    embed_dims: int
    num_heads: int
    attn_drop: float
    proj_drop: float
    dropout: float
    dropout_layer: LayerConfig | None
    batch_first: bool


class FFNConfig(TypedDict, total=False):
    """Arguments of `segkernel.nn.FFN`."""

    embed_dims: int
    feedforward_channels: int
    num_fcs: int
    act_cfg: LayerConfig
    ffn_drop: float
    dropout_layer: LayerConfig | None
    add_identity: bool


class EncoderLayerConfig(TypedDict, total=False):
    """Arguments of `EncoderLayer`."""

    self_attn_cfg: AttentionConfig
    ffn_cfg: FFNConfig
    norm_cfg: LayerConfig


class DecoderLayerConfig(TypedDict, total=False):
    """Arguments of `DecoderLayer`."""

    self_attn_cfg: AttentionConfig
    cross_attn_cfg: AttentionConfig
    ffn_cfg: FFNConfig
    norm_cfg: LayerConfig


class EncoderConfig(TypedDict, total=False):
    """Number and arguments of the layers of `Encoder`; ``num_cp`` of them save memory by computing twice."""

    num_layers: int
    layer_cfg: EncoderLayerConfig
    num_cp: int


class DecoderConfig(TypedDict, total=False):
    """Number and arguments of the layers of a decoder, and the norm after the last one.

    ``return_intermediate`` is true: every layer's queries learn.
    """

    num_layers: int
    layer_cfg: DecoderLayerConfig
    post_norm_cfg: LayerConfig
    return_intermediate: bool


class SineConfig(TypedDict, total=False):
    """Arguments of `SinePositionalEncoding`."""

    num_feats: int
    temperature: float
    normalize: bool
    scale: float
    eps: float
    offset: float


class SinePositionalEncoding(nn.Module):
    """Where each cell of a map is, as sines and cosines of its row and column.

    Args:
        num_feats: Values for the row, and as many for the column.
        temperature: Ratio of the longest to the shortest wave.
        normalize: Rows and columns are shares of the height and width, times ``scale``.
        scale: The angle at the last row and column.
        eps: Keeps the division from 0.
        offset: Added to the row and column, counted from 1, when normalised.
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
        """Return (1, H * W, 2 * num_feats) for a map ``x`` (N, C, H, W), in its type."""
        rows, columns = (self._waves(length, x.device) for length in x.shape[2:])
        rows = rows[:, None].expand(-1, x.shape[3], -1)
        columns = columns[None].expand(x.shape[2], -1, -1)
        return torch.cat([rows, columns], 2).flatten(0, 1).unsqueeze(0).to(x.dtype)

    def _waves(self, length: int, device: torch.device) -> Tensor:
        """Return (length, num_feats)."""
        position = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        if self.normalize:
            position = (position + self.offset) / (position[-1:] + self.eps) * self.scale
        pair = torch.arange(self.num_feats // 2, device=device, dtype=torch.float32)
        angle = position[:, None] / self.temperature ** (2 * pair / self.num_feats)
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class EncoderLayer(nn.Module):
    """Self-attention and `FFN`, each with a norm after it: (N, L, C) -> (N, L, C)."""

    def __init__(
        self,
        self_attn_cfg: AttentionConfig = {},  # noqa: B006  never changed
        ffn_cfg: FFNConfig = {},  # noqa: B006
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006
    ) -> None:
        super().__init__()
        self.self_attn = build_attention(self_attn_cfg)
        self.ffn = FFN(**ffn_cfg)
        self.norms = nn.ModuleList(build_norm(norm_cfg, width_of(self_attn_cfg))[1] for _ in range(2))

    def forward(self, query: Tensor, query_pos: Tensor) -> Tensor:
        place = query + query_pos
        query = self.norms[0](self.self_attn(place, place, query, identity=query))
        return self.norms[1](self.ffn(query))


class Encoder(nn.Module):
    """Layers in a row: (N, L, C) and the positions (1, L, C) -> (N, L, C)."""

    def __init__(
        self,
        num_layers: int = 6,
        layer_cfg: EncoderLayerConfig = {},  # noqa: B006  never changed
        num_cp: int = -1,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(**layer_cfg) for _ in range(num_layers))
        self.embed_dims = width_of(layer_cfg.get("self_attn_cfg", {}))
        self.num_cp = num_cp
        xavier_init(self)

    def forward(self, query: Tensor, query_pos: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            query = run_layer(layer, query, query_pos, recompute=self.training and i < self.num_cp)
        return query


class DecoderLayer(nn.Module):
    """Queries attend to one another, then to a memory, then pass an `FFN`; each with a norm after it."""

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
        self.norms = nn.ModuleList(build_norm(norm_cfg, width_of(self_attn_cfg))[1] for _ in range(3))

    def forward(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Return the queries (N, Q, C).

        Args:
            query: (N, Q, C).
            query_pos: Added where queries are compared, (N or 1, Q, C).
            memory: (N, L, C).
            memory_pos: Likewise, (N or 1, L, C).
            allowed: Where each query may look, bool (N, 1, Q, L); everywhere for None.
        """
        query = self.norms[0](self._attend_self(query, query_pos))
        query = self.norms[1](self._attend_memory(query, query_pos, memory, memory_pos, allowed))
        return self.norms[2](self.ffn(query))

    def _attend_self(self, query: Tensor, query_pos: Tensor) -> Tensor:
        place = query + query_pos
        return self.self_attn(place, place, query, identity=query)

    def _attend_memory(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, allowed: Tensor | None
    ) -> Tensor:
        return self.cross_attn(query + query_pos, memory + memory_pos, memory, identity=query, mask=allowed)


class MaskedDecoderLayer(DecoderLayer):
    """As `DecoderLayer`, but the memory comes first (Mask2Former)."""

    def forward(
        self, query: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        query = self.norms[0](self._attend_memory(query, query_pos, memory, memory_pos, allowed))
        query = self.norms[1](self._attend_self(query, query_pos))
        return self.norms[2](self.ffn(query))


class Decoder(nn.Module):
    """Layers in a row; what each gives is normalised for the predictions, not for the next layer.

    Args:
        num_layers: How many.
        layer_cfg: Of each.
        post_norm_cfg: Kind of norm.
        return_intermediate: Must be true.
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
            raise ConfigError(Problem("every layer's queries learn, so all are needed", "return_intermediate"))
        self.layers = nn.ModuleList(self.layer_class(**layer_cfg) for _ in range(num_layers))
        self.embed_dims = width_of(layer_cfg.get("self_attn_cfg", {}))
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
    """`Decoder` of `MaskedDecoderLayer`; the head runs its layers itself."""

    layer_class = MaskedDecoderLayer


def build_attention(cfg: AttentionConfig) -> MultiheadAttention:
    """Return an attention of 256 channels and 8 heads unless ``cfg`` says otherwise."""
    dropout = cfg.get("dropout")
    layer = cfg.get("dropout_layer") if dropout is None else {"type": "Dropout", "drop_prob": dropout}
    return MultiheadAttention(
        width_of(cfg),
        cfg.get("num_heads", 8),
        cfg.get("attn_drop", 0.0) if dropout is None else dropout,
        cfg.get("proj_drop", 0.0),
        layer,
    )


def width_of(cfg: AttentionConfig) -> int:
    """Return the channels of an attention."""
    return cfg.get("embed_dims", 256)


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """Call a layer; with ``recompute`` backward runs it a second time instead of keeping its activations."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


def xavier_init(module: nn.Module) -> None:
    """Draw every matrix below ``module`` for signals and gradients of equal variance (Glorot and Bengio, 2010)."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
