"""SAN: a small transformer beside CLIP that proposes masks, and tells CLIP where to look to name each.

Xu, Zhang, Wei, Hu and Bai, Side Adapter Network for Open-Vocabulary Semantic Segmentation, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.errors import ConfigError, Problem
from segkernel.nn import (
    ConvModule,
    LayerConfig,
    PatchEmbed,
    TransformerEncoderLayer,
    adaptive_max_pool,
    build_norm,
    nchw_to_nlc,
    nlc_to_nchw,
    resize,
    resize_pos_embed,
)
from segkernel.nn.layers import LayerNorm2d
from segplug_heads.parts.clip_text_encoder import LN, PreNormLayer

ClipMap = tuple[Tensor, Tensor]
"""A map of CLIP's image encoder (N, C, h, w), and its class token (N, C)."""
BLOCKED = -100.0
"""Added to attention between tokens that shall not see each other."""


class AdapterEncoderConfig(TypedDict, total=False):
    """The side network's layers: how many, their attention heads, and the width of their feed-forward layers."""

    num_encode_layer: int
    num_heads: int
    mlp_ratio: int


class AdapterDecoderConfig(TypedDict, total=False):
    """Arguments of `MaskDecoder` under the names of configs."""

    num_heads: int
    num_layers: int
    embed_channels: int
    mlp_channels: int
    num_mlp: int
    rescale: bool


class MLP(nn.Module):
    """Layers with a ReLU between: (N, Q, in_channels) -> (N, Q, out_channels), or maps with ``on_maps``."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, num_layers: int, on_maps: bool) -> None:
        super().__init__()
        widths = [in_channels, *[hidden] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) if on_maps else nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Queries (N, Q, C) and a map (N, C, h, w) -> masks (N, Q, h, w) and, per layer of CLIP, biases of its attention.

    Args:
        in_channels: C.
        num_heads: Heads of each bias (N, num_heads, Q, h, w).
        num_layers: Number of biases.
        embed_channels: Channels in which queries and cells are compared.
        mlp_channels: Width of the layers before.
        num_mlp: Number of those layers.
        rescale: Scale and shift the biases by two numbers that learn.
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int = 1,
        num_layers: int = 1,
        embed_channels: int = 256,
        mlp_channels: int = 256,
        num_mlp: int = 3,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.shape = (num_layers, num_heads, embed_channels)
        self.query_mlp = MLP(in_channels, mlp_channels, embed_channels, num_mlp, on_maps=False)
        self.pix_mlp = MLP(in_channels, mlp_channels, embed_channels, num_mlp, on_maps=True)
        biases = embed_channels * num_heads * num_layers
        self.attn_mlp = MLP(in_channels, mlp_channels, biases, num_mlp, on_maps=True)
        self.bias_scaling = nn.Linear(1, 1) if rescale else nn.Identity()

    def forward(self, query: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        query = self.query_mlp(query)
        masks = torch.einsum("nqc,nchw->nqhw", query, self.pix_mlp(x))
        biases = torch.einsum("nqc,nlachw->nlaqhw", query, self.attn_mlp(x).unflatten(1, self.shape))
        return masks, list(self.bias_scaling(biases.unsqueeze(-1)).squeeze(-1).unbind(1))


class SideAdapterNetwork(nn.Module):
    """Images (N, in_channels, H, W) and CLIP's maps -> masks (N, Q, H / patch, W / patch) and biases of attention.

    Args:
        in_channels: Of the images.
        clip_channels: Of CLIP's maps.
        embed_dims: Channels of a token.
        patch_size: Side of a patch in pixels.
        patch_bias: Whether the embedding of patches has a bias.
        num_queries: Q.
        fusion_index: After which layers, counted from 1, each of CLIP's maps is added; 0 is before the first.
        cfg_encoder: The layers.
        cfg_decoder: What makes masks and biases of their tokens.
        norm_cfg: Kind of norm.
    """

    image_size: tuple[int, int] = (640, 640)  # that the position embeddings are for

    def __init__(
        self,
        in_channels: int = 3,
        clip_channels: int = 768,
        embed_dims: int = 240,
        patch_size: int = 16,
        patch_bias: bool = True,
        num_queries: int = 100,
        fusion_index: Sequence[int] = (0, 1, 2, 3),
        cfg_encoder: AdapterEncoderConfig = {"num_encode_layer": 8, "num_heads": 6, "mlp_ratio": 4},  # noqa: B006
        cfg_decoder: AdapterDecoderConfig = {},  # noqa: B006
        norm_cfg: LayerConfig = LN,
    ) -> None:
        super().__init__()
        layers = cfg_encoder.get("num_encode_layer", 8)
        self.fusion = {layer: i for i, layer in enumerate(fusion_index)}
        if len(self.fusion) != len(fusion_index) or not all(0 <= layer <= layers for layer in fusion_index):
            message = f"{list(fusion_index)} must name different ones of 0 to {layers}"
            raise ConfigError(Problem(message, "san_cfg.fusion_index"))
        self.num_queries = num_queries
        self.grid = (self.image_size[0] // patch_size, self.image_size[1] // patch_size)
        self.patch_embed = PatchEmbed(in_channels, embed_dims, kernel_size=patch_size, padding=0, bias=patch_bias)
        self.pos_embed = nn.Parameter(torch.randn(1, self.grid[0] * self.grid[1], embed_dims) * 0.02)
        self.query_pos_embed = nn.Parameter(torch.zeros(1, num_queries, embed_dims))
        self.query_embed = nn.Parameter(torch.zeros(1, num_queries, embed_dims))
        for embedding in (self.query_embed, self.query_pos_embed):
            nn.init.normal_(embedding, std=0.02)
        heads, ratio = cfg_encoder.get("num_heads", 6), cfg_encoder.get("mlp_ratio", 4)
        self.encode_layers = nn.ModuleList(
            TransformerEncoderLayer(embed_dims, heads, ratio * embed_dims, norm_cfg=norm_cfg) for _ in range(layers)
        )
        self.conv_clips = nn.ModuleList(
            nn.Sequential(LayerNorm2d(clip_channels, eps=1e-6), ConvModule(clip_channels, embed_dims, 1, act_cfg=None))
            for _ in fusion_index
        )
        self.mask_decoder = MaskDecoder(embed_dims, **cfg_decoder)

    def forward(
        self, images: Tensor, clip_maps: Sequence[ClipMap], supervised: Sequence[int]
    ) -> list[tuple[Tensor, list[Tensor]]]:
        """Return masks and biases after each of the layers ``supervised``, counted from 1, and after the last."""
        if len(clip_maps) != len(self.fusion):
            message = f"CLIP's image encoder gives {len(clip_maps)} maps, but {len(self.fusion)} are added"
            raise ConfigError(Problem(message, "san_cfg.fusion_index"))
        tokens, size = self.patch_embed(images)
        place = resize_pos_embed(self.pos_embed, self.grid, size, "bicubic", extra_tokens=0)
        query = (self.query_embed + self.query_pos_embed).expand(tokens.shape[0], -1, -1)
        x, outputs, last = torch.cat([query, tokens + place], 1), [], len(self.encode_layers)
        places = torch.cat([self.query_pos_embed, place], 1)
        x = self._fuse(0, x, clip_maps, size)
        for index, layer in enumerate(self.encode_layers, start=1):
            x = self._fuse(index, layer(x), clip_maps, size)
            if index in supervised or index == last:
                query, tokens = x[:, : self.num_queries], x[:, self.num_queries :]
                outputs.append(self.mask_decoder(query, nlc_to_nchw(tokens, size)))
            x = x + places
        return outputs

    def _fuse(self, index: int, x: Tensor, clip_maps: Sequence[ClipMap], size: tuple[int, int]) -> Tensor:
        """Add CLIP's map that belongs behind layer ``index`` to the image's tokens; 0 is before the first."""
        if index not in self.fusion:
            return x
        place = self.fusion[index]
        added = nchw_to_nlc(resize(self.conv_clips[place](clip_maps[place][0]), size))
        return x + F.pad(added, (0, 0, self.num_queries, 0))


class RecWithAttnbias(nn.Module):
    """The last layers of CLIP's image encoder, run once for all masks: each has a class token that looks where it is.

    Nothing of it learns, but for what ``frozen_exclude`` names.

    Args:
        sos_token_format: What a mask's token starts as: CLIP's class token, a vector that learns, or their sum.
        sos_token_num: Number of masks.
        num_layers: Number of layers.
        cross_attn: The masks' tokens look at the image from outside, instead of going through the layers with it.
        embed_dims: Channels of a token.
        num_heads: Attention heads of each layer.
        mlp_ratio: Width of the feed-forward layers, times ``embed_dims``.
        num_fcs: Fully connected layers in a feed-forward layer.
        qkv_bias: Whether the projections of the attention have a bias.
        out_dims: Channels of the result, those of the classes' vectors.
        final_norm: Bring the result to length 1.
        act_cfg: Kind of activation.
        norm_cfg: Kind of the last norm.
        frozen_exclude: Parts of the names of parameters that learn while all others are frozen; ``all`` freezes none.
    """

    def __init__(
        self,
        sos_token_format: Literal["cls_token", "learnable_token", "pos_embedding"] = "cls_token",
        sos_token_num: int = 100,
        num_layers: int = 3,
        cross_attn: bool = False,
        embed_dims: int = 768,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        num_fcs: int = 2,
        qkv_bias: bool = True,
        out_dims: int = 512,
        final_norm: bool = True,
        act_cfg: LayerConfig = {"type": "GELU"},  # noqa: B006  never changed
        norm_cfg: LayerConfig = LN,
        frozen_exclude: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.sos_token_format, self.sos_token_num = sos_token_format, sos_token_num
        self.cross_attn, self.num_heads, self.final_norm = cross_attn, num_heads, final_norm
        self.layers = nn.ModuleList(
            PreNormLayer(embed_dims, num_heads, mlp_ratio * embed_dims, num_fcs, qkv_bias, act_cfg)
            for _ in range(num_layers)
        )
        self.ln_post = build_norm(norm_cfg, embed_dims)[1]
        self.proj = nn.Linear(embed_dims, out_dims, bias=False)
        if "all" not in frozen_exclude:
            for name, parameter in self.named_parameters():
                parameter.requires_grad = any(part in name for part in frozen_exclude)
        if sos_token_format != "cls_token":
            self.sos_token = nn.Parameter(torch.randn(sos_token_num, 1, embed_dims) * 0.02)

    def forward(self, biases: Sequence[Tensor], clip_map: ClipMap) -> Tensor:
        """Return a vector for each mask (N, Q, out_dims).

        Args:
            biases: One for each layer, or one for all, (N, num_heads or 1, Q, h, w).
            clip_map: The last map of CLIP's image encoder.
        """
        image, cls_token = clip_map
        masks = self._start(cls_token)
        tokens = torch.cat([cls_token.unsqueeze(1), nchw_to_nlc(image)], 1)
        biases = [self._bias(bias, (image.shape[2], image.shape[3])) for bias in biases]
        biases = biases * len(self.layers) if len(biases) == 1 else biases
        masks = (self._beside if self.cross_attn else self._within)(masks, tokens, biases)
        vectors = self.proj(self.ln_post(masks))
        return F.normalize(vectors, dim=-1) if self.final_norm else vectors

    def _start(self, cls_token: Tensor) -> Tensor:
        """Return what the masks' tokens start as (N, Q, C)."""
        copies = cls_token.unsqueeze(1).expand(-1, self.sos_token_num, -1)
        if self.sos_token_format == "cls_token":
            return copies
        own = self.sos_token.transpose(0, 1).expand_as(copies)
        return own if self.sos_token_format == "learnable_token" else own + copies

    def _bias(self, bias: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (N, heads, Q, h * w) at the size of CLIP's map."""
        return adaptive_max_pool(bias.flatten(1, 2), size).unflatten(1, bias.shape[1:3]).flatten(3)

    def _within(self, masks: Tensor, tokens: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """Send masks and image through the layers; the image does not see the masks, nor do they see each other."""
        count = self.sos_token_num
        x = torch.cat([masks, tokens], 1)
        among = _apart(masks, BLOCKED)
        mask_rows = torch.cat([among, masks.new_full((count, 1), BLOCKED)], 1)
        for layer, bias in zip(self.layers, biases, strict=True):
            upper = torch.cat([mask_rows.expand(*bias.shape[:2], -1, -1), bias.to(x.dtype)], 3)
            lower = F.pad(bias.new_zeros(tokens.shape[1], tokens.shape[1]), (count, 0), value=BLOCKED)
            x = layer(x, torch.cat([upper, lower.to(x.dtype).expand(*bias.shape[:2], -1, -1)], 2))
        return x[:, :count]

    def _beside(self, masks: Tensor, tokens: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """Let the masks look at the image and each at itself; the image goes through the layers alone."""
        for i, (layer, bias) in enumerate(zip(self.layers, biases, strict=True)):
            masks = self._look(layer, masks, tokens[:, 1:], bias)
            if i < len(self.layers) - 1:
                tokens = layer(tokens)
        return masks

    def _look(self, layer: PreNormLayer, masks: Tensor, image: Tensor, bias: Tensor) -> Tensor:
        """Run a layer in which each mask's keys are the image and the mask itself."""
        norm = layer.norms[0]
        query = norm(masks)
        keys = torch.cat([query, norm(image)], 1)
        among = _apart(masks, -torch.inf)
        mask = torch.cat([among.expand(*bias.shape[:2], -1, -1), bias.to(masks.dtype)], 3)
        masks = layer.attentions[0](query, keys, identity=masks, mask=mask)
        return layer.ffns[0](layer.norms[1](masks), identity=masks)


def _apart(masks: Tensor, value: float) -> Tensor:
    """Return the mask (Q, Q) of an attention that keeps tokens (N, Q, C) from each other, but not from themselves."""
    same = torch.eye(masks.shape[1], dtype=torch.bool, device=masks.device)
    return torch.zeros_like(same, dtype=masks.dtype).masked_fill(~same, value)
