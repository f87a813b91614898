"""Segmenter: class embeddings pass a transformer together with the patches; masks are the products of the two.

Segmenter: Transformer for Semantic Segmentation, Strudel et al., 2021 (https://arxiv.org/abs/2105.05633).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.labels import Task
from segkernel.nn import (
    DecodeHead,
    HeadArguments,
    LayerConfig,
    TransformerEncoderLayer,
    build_norm,
    linear_drop_path_rates,
    nchw_to_nlc,
    nlc_to_nchw,
    trunc_normal_init,
)
from segkernel.nn.decode_head import InputTransform


class SegmenterMaskTransformerHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, num_classes, h, w).

    Args:
        num_layers: Number of transformer layers.
        num_heads: Attention heads of each layer; must divide ``embed_dims``.
        embed_dims: Channels of a token.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of ``embed_dims``.
        drop_path_rate: Drop path rate of the last layer, rising linearly from 0 at the first.
        drop_rate: Dropout rate of the attention's output and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        num_fcs: Linear layers of the feed-forward networks.
        qkv_bias: Whether the projections of the attention have a bias.
        act_cfg: Activation of the feed-forward networks.
        norm_cfg: Type of the norms.
        init_std: Standard deviation of the initial weights.
        conv_cfg: Not used, accepted as by every decode head.
        input_transform: ``resize_concat`` concatenates several maps at the size of the first; None takes one.

    Raises:
        ConfigError: ``out_channels`` is not ``num_classes``.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("multiclass", "multilabel")
    conformance: ClassVar = {
        "in_channels": 8, "channels": 8, "num_classes": 4, "num_layers": 2, "num_heads": 2, "embed_dims": 12
    }  # fmt: skip

    def __init__(
        self,
        num_layers: PositiveInt,
        num_heads: PositiveInt,
        embed_dims: PositiveInt,
        mlp_ratio: PositiveInt = 4,
        drop_path_rate: Probability = 0.1,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        num_fcs: PositiveInt = 2,
        qkv_bias: bool = True,
        act_cfg: LayerConfig = {"type": "GELU"},  # noqa: B006  never changed
        norm_cfg: LayerConfig = {"type": "LN"},  # noqa: B006  never changed
        init_std: NonNegative = 0.02,
        conv_cfg: LayerConfig | None = None,
        input_transform: InputTransform | None = None,
        **kwargs: Unpack[HeadArguments],
    ) -> None:
        super().__init__(
            conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg, input_transform=input_transform, **kwargs
        )
        if self.out_channels != self.num_classes:
            raise ConfigError(Problem("every class has a mask of its own", "out_channels", hint="leave it out"))
        del self.conv_seg  # the class embeddings take its place
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(
                embed_dims,
                num_heads,
                mlp_ratio * embed_dims,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                drop_path_rate=rate,
                num_fcs=num_fcs,
                qkv_bias=qkv_bias,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
            )
            for rate in linear_drop_path_rates(drop_path_rate, num_layers)
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
        # Both are of unit length, so that a mask is a cosine similarity; the norm over the classes restores its scale.
        masks = self.mask_norm(patches @ classes.mT)
        return nlc_to_nchw(masks, (x.shape[2], x.shape[3]))
