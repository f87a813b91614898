"""Segmenter: class embeddings that attend to the patches, and masks as the likeness of the two.

Strudel et al., Segmenter: Transformer for Semantic Segmentation, 2021 (https://arxiv.org/abs/2105.05633).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.data import Task
from segkernel.interfaces.model import Features
from segkernel.nn import (
    DecodeHead,
    DecodeHeadArguments,
    TransformerEncoderLayer,
    build_norm,
    nchw_to_nlc,
    nlc_to_nchw,
    trunc_normal_init,
)


class SegmenterMaskTransformerHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, num_classes, h, w).

    Args:
        num_layers: Transformer layers.
        num_heads: Attention heads of each layer.
        embed_dims: Channels of a token.
        mlp_ratio: Width of the feed-forward layers, times ``embed_dims``.
        drop_path_rate: Share of feed-forward layers skipped at the last layer, growing from 0 at the first.
        drop_rate: Share of values dropped after attention and in feed-forward layers.
        attn_drop_rate: Share of attention weights dropped.
        num_fcs: Fully connected layers in a feed-forward layer.
        qkv_bias: Whether the projections of the attention have a bias.
        act_cfg: Kind of activation in feed-forward layers.
        norm_cfg: Kind of norm.
        init_std: Deviation of the first weights.

    Raises:
        ConfigError: When ``out_channels`` is not ``num_classes``.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel")
    conformance: ClassVar = {
        "in_channels": 8, "channels": 8, "num_classes": 4, "num_layers": 2, "num_heads": 2, "embed_dims": 12
    }  # fmt: skip

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        embed_dims: int,
        mlp_ratio: int = 4,
        drop_path_rate: float = 0.1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        init_std: float = 0.02,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if self.out_channels != self.num_classes:
            raise ConfigError(Problem("every class has a map of its own", "out_channels", hint="leave it out"))
        del self.conv_seg  # the classes' embeddings take its place
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(
                embed_dims,
                num_heads,
                mlp_ratio * embed_dims,
                drop_rate,
                attn_drop_rate,
                drop_path_rate * i / max(num_layers - 1, 1),
                num_fcs,
                qkv_bias,
                act_cfg,
                norm_cfg,
            )
            for i in range(num_layers)
        )
        self.dec_proj = nn.Linear(self.in_channels, embed_dims)
        self.cls_emb = nn.Parameter(torch.empty(1, self.num_classes, embed_dims))
        self.patch_proj = nn.Linear(embed_dims, embed_dims, bias=False)
        self.classes_proj = nn.Linear(embed_dims, embed_dims, bias=False)
        self.decoder_norm = build_norm(norm_cfg, embed_dims)[1]
        self.mask_norm = build_norm(norm_cfg, self.num_classes)[1]
        nn.init.trunc_normal_(self.cls_emb, std=init_std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_init(module, std=init_std)

    def forward(self, features: Features) -> Tensor:
        x = self.select(features)
        tokens = torch.cat([self.dec_proj(nchw_to_nlc(x)), self.cls_emb.expand(x.shape[0], -1, -1)], 1)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.decoder_norm(tokens)
        patches = F.normalize(self.patch_proj(tokens[:, : -self.num_classes]), dim=2)
        classes = F.normalize(self.classes_proj(tokens[:, -self.num_classes :]), dim=2)
        return nlc_to_nchw(self.mask_norm(patches @ classes.transpose(1, 2)), (x.shape[2], x.shape[3]))
