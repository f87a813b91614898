"""Multi-scale deformable attention in plain torch: each token attends to a few sampled points of every map.

Deformable DETR: Deformable Transformers for End-to-End Object Detection, Zhu et al., 2021
(https://arxiv.org/abs/2010.04159).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.nn import FFN, LayerConfig, build_norm, checkpoint_block
from segplug_heads.parts.query_transformer import FFNConfig

Size = tuple[int, int]


class DeformableAttentionConfig(TypedDict, total=False):
    """Arguments of `MultiScaleDeformableAttention`."""

    embed_dims: PositiveInt
    num_heads: PositiveInt
    num_levels: int
    num_points: PositiveInt
    im2col_step: int
    dropout: Probability
    batch_first: bool
    norm_cfg: LayerConfig | None
    value_proj_ratio: float


class DeformableLayerConfig(TypedDict, total=False):
    """Arguments of `DeformableEncoderLayer`."""

    self_attn_cfg: DeformableAttentionConfig
    ffn_cfg: FFNConfig
    norm_cfg: LayerConfig


class DeformableEncoderConfig(TypedDict, total=False):
    """Arguments of `DeformableEncoder`."""

    num_layers: PositiveInt
    layer_cfg: DeformableLayerConfig
    num_cp: int


class MultiScaleDeformableAttention(nn.Module):
    """Tokens of several maps, (N, L, C) -> (N, L, C), with a residual connection (equation 3 of the paper).

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        num_levels: Number of maps.
        num_points: Points sampled in each map, for each head.
        im2col_step: Not used, accepted for existing configs: the batch is not processed in chunks.
        dropout: Dropout rate of the residual branch.
        batch_first: Not used, accepted for existing configs: tokens are (N, L, C).
        norm_cfg: Not used, accepted for existing configs: the layer has the norms.
        value_proj_ratio: Channels of the values, as a multiple of C.

    Raises:
        ConfigError: ``embed_dims`` is not divisible by ``num_heads``.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        im2col_step: int = 64,
        dropout: float = 0.1,
        batch_first: bool = True,
        norm_cfg: LayerConfig | None = None,
        value_proj_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ConfigError(Problem(f"{embed_dims} channels are not divisible by {num_heads} heads", "num_heads"))
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        value_channels = int(embed_dims * value_proj_ratio)
        points = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, points * 2)
        self.attention_weights = nn.Linear(embed_dims, points)
        self.value_proj = nn.Linear(embed_dims, value_channels)
        self.output_proj = nn.Linear(value_channels, embed_dims)
        self.dropout = nn.Dropout(dropout)
        self._init_weights()

    def _init_weights(self) -> None:
        """Initially each head samples in one direction, at distances of 1 to ``num_points`` cells, with equal weights.

        Appendix A.4 of the paper.
        """
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], 1)
        # Onto a square instead of a circle: with 8 heads, the 8 neighbours of a cell.
        direction = direction / direction.abs().amax(1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = direction[:, None, None] * distance[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, query_pos: Tensor, reference_points: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return (N, L, C).

        Args:
            query: Tokens of the maps, one map after another, (N, L, C).
            query_pos: Position encodings of the tokens, (1, L, C).
            reference_points: Position (x, y) of each token, from 0 to 1 over the width and height, (L, 2).
            sizes: (height, width) of each map.
        """
        positioned = query + query_pos
        shape = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(positioned).unflatten(2, (*shape, 2))
        # The weights of all points of all maps sum to one.
        weights = self.attention_weights(positioned).unflatten(2, (self.num_heads, -1)).softmax(-1)
        weights = weights.unflatten(3, shape[1:])
        values = self.value_proj(query).unflatten(2, (self.num_heads, -1)).split([h * w for h, w in sizes], 1)
        sampled = [
            self._sample(value, offsets[:, :, :, level], weights[:, :, :, level], reference_points, size)
            for level, (value, size) in enumerate(zip(values, sizes, strict=True))
        ]
        return self.dropout(self.output_proj(sum(sampled))) + query

    def _sample(self, value: Tensor, offsets: Tensor, weights: Tensor, reference_points: Tensor, size: Size) -> Tensor:
        """Return the weighted sum (N, L, C) of the points of one map.

        Args:
            value: (N, h * w, heads, c).
            offsets: Offsets of the points from the reference points, in cells of the map, (N, L, heads, P, 2).
            weights: (N, L, heads, P).
            reference_points: (L, 2).
            size: (h, w).
        """
        height, width = size
        offsets = torch.stack([offsets[..., 0] / width, offsets[..., 1] / height], -1)
        grid = 2 * (reference_points[:, None, None] + offsets) - 1
        maps = value.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, size)
        points = F.grid_sample(maps.to(grid.dtype), grid.transpose(1, 2).flatten(0, 1), align_corners=False)
        summed = (points * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(3).to(value.dtype)
        return summed.unflatten(0, (-1, self.num_heads)).permute(0, 3, 1, 2).flatten(2)


class DeformableEncoderLayer(nn.Module):
    """Post-norm transformer layer, deformable self-attention and `FFN`: (N, L, C) -> (N, L, C).

    Args:
        self_attn_cfg: The attention.
        ffn_cfg: The feed-forward network.
        norm_cfg: Type of the norms.
    """

    def __init__(
        self,
        self_attn_cfg: DeformableAttentionConfig = {},  # noqa: B006  never changed
        ffn_cfg: FFNConfig = {},  # noqa: B006
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006
    ) -> None:
        super().__init__()
        self.self_attn = MultiScaleDeformableAttention(**self_attn_cfg)
        self.ffn = FFN(**ffn_cfg)
        embed_dims = self_attn_cfg.get("embed_dims", 256)
        self.norms = nn.ModuleList(build_norm(norm_cfg, embed_dims)[1] for _ in range(2))

    def forward(self, query: Tensor, query_pos: Tensor, reference_points: Tensor, sizes: Sequence[Size]) -> Tensor:
        query = self.norms[0](self.self_attn(query, query_pos, reference_points, sizes))
        return self.norms[1](self.ffn(query))


class DeformableEncoder(nn.Module):
    """Transformer encoder with deformable attention; ``forward`` is called as `MultiScaleDeformableAttention`'s.

    Args:
        num_layers: Number of layers.
        layer_cfg: Arguments of each layer.
        num_cp: Activation checkpointing in the first ``num_cp`` layers; -1 for none.
    """

    def __init__(
        self,
        num_layers: int = 6,
        layer_cfg: DeformableLayerConfig = {},  # noqa: B006  never changed
        num_cp: int = -1,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DeformableEncoderLayer(**layer_cfg) for _ in range(num_layers))
        self.embed_dims = layer_cfg.get("self_attn_cfg", {}).get("embed_dims", 256)
        self.num_cp = num_cp

    def forward(self, query: Tensor, query_pos: Tensor, reference_points: Tensor, sizes: Sequence[Size]) -> Tensor:
        for i, layer in enumerate(self.layers):
            enabled = self.training and i < self.num_cp
            query = checkpoint_block(layer, query, query_pos, reference_points, sizes, enabled=enabled)
        return query


def cell_centres(size: Size, device: torch.device) -> Tensor:
    """Return the centre (x, y) of each cell of a map, from 0 to 1 over its width and height, (h * w, 2)."""
    height, width = size
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], 2).flatten(0, 1)
