"""SAN's side adapter network, which predicts mask proposals and attention biases for CLIP, and CLIP's last layers.

Side Adapter Network for Open-Vocabulary Semantic Segmentation, Xu, Zhang, Wei, Hu and Bai, 2023
(https://arxiv.org/abs/2302.12242). The side network reads the image and, fused into it, features of CLIP's first
layers. CLIP's last layers then recognise the proposals: a copy of CLIP's class token for each proposal, called [SLS]
token in the paper and ``sos_token`` in the reference implementation, attends to the image with the proposal's bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

from segkernel.annotations import PositiveInt
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
TokenFormat = Literal["cls_token", "learnable_token", "pos_embedding"]
MASKED = -100.0
"""Added to attention logits where attention is not allowed."""


class AdapterEncoderConfig(TypedDict, total=False):
    """The layers of the side network.

    Args:
        num_encode_layer: Number of layers, 8 by default.
        num_heads: Attention heads of each layer, 6 by default.
        mlp_ratio: Hidden width of the feed-forward networks as a multiple of ``embed_dims``, 4 by default.
    """

    num_encode_layer: int
    num_heads: PositiveInt
    mlp_ratio: PositiveInt


class AdapterDecoderConfig(TypedDict, total=False):
    """Arguments of `MaskDecoder`."""

    num_heads: PositiveInt
    num_layers: PositiveInt
    embed_channels: PositiveInt
    mlp_channels: PositiveInt
    num_mlp: int
    rescale: bool


class MLP(nn.Module):
    """Multi-layer perceptron: (N, Q, in_channels) -> (N, Q, out_channels).

    Args:
        in_channels: Input channels.
        hidden_channels: Channels of the hidden layers.
        out_channels: Output channels.
        num_layers: Number of layers.
        conv: Layers are 1x1 convolutions, on (N, in_channels, h, w).
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, num_layers: int, conv: bool) -> None:
        super().__init__()
        widths = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) if conv else nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """Queries (N, Q, C) and a map (N, C, h, w) -> mask logits (N, Q, h, w), attention biases.

    There is one bias (N, num_heads, Q, h, w) for each of CLIP's last layers, or one for all.

    Args:
        in_channels: C.
        num_heads: Heads of each bias; 1 is shared by all heads of CLIP.
        num_layers: Number of biases.
        embed_channels: Channels of the mask embeddings that queries and pixels are projected to.
        mlp_channels: Hidden channels of the projections.
        num_mlp: Layers of the projections.
        rescale: Multiply the biases by a learnable number and add another one.
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
        self.bias_shape = (num_layers, num_heads, embed_channels)
        self.query_mlp = MLP(in_channels, mlp_channels, embed_channels, num_mlp, conv=False)
        self.pix_mlp = MLP(in_channels, mlp_channels, embed_channels, num_mlp, conv=True)
        bias_channels = num_layers * num_heads * embed_channels
        self.attn_mlp = MLP(in_channels, mlp_channels, bias_channels, num_mlp, conv=True)
        self.bias_scaling = nn.Linear(1, 1) if rescale else nn.Identity()

    def forward(self, query: Tensor, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        query = self.query_mlp(query)
        masks = torch.einsum("nqc,nchw->nqhw", query, self.pix_mlp(x))
        biases = torch.einsum("nqc,nlachw->nlaqhw", query, self.attn_mlp(x).unflatten(1, self.bias_shape))
        return masks, list(self.bias_scaling(biases.unsqueeze(-1)).squeeze(-1).unbind(1))


class SideAdapterNetwork(nn.Module):
    """Images (N, in_channels, H, W) and CLIP's maps -> mask logits (N, Q, H / patch, W / patch), attention biases.

    Args:
        in_channels: Channels of the images.
        clip_channels: Channels of CLIP's maps.
        embed_dims: Channels of a token.
        patch_size: Side of a patch in pixels.
        patch_bias: Whether the patch embedding has a bias.
        num_queries: Q, the number of mask proposals.
        fusion_index: Layer, counted from 1, after which each of CLIP's maps is added; 0 is before the first layer.
        cfg_encoder: The layers.
        cfg_decoder: Arguments of the `MaskDecoder`.
        norm_cfg: Type of the norms.

    Raises:
        ConfigError: ``fusion_index`` repeats a layer or names one that does not exist; in ``forward``, CLIP gives
            another number of maps.
    """

    image_size: tuple[int, int] = (640, 640)
    """(height, width) in pixels that the position embeddings are for; they are interpolated for other sizes."""

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
        self.map_of_layer = {layer: i for i, layer in enumerate(fusion_index)}
        if len(self.map_of_layer) != len(fusion_index) or not all(0 <= layer <= layers for layer in fusion_index):
            message = f"{list(fusion_index)} must be different layers from 0 to {layers}"
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
        """Return mask logits and biases after each of the layers ``supervised``, counted from 1, and after the last."""
        if len(clip_maps) != len(self.map_of_layer):
            message = f"CLIP's image encoder gives {len(clip_maps)} maps, but {len(self.map_of_layer)} are added"
            raise ConfigError(Problem(message, "san_cfg.fusion_index"))
        patches, size = self.patch_embed(images)
        patch_pos = resize_pos_embed(self.pos_embed, self.grid, size, "bicubic", extra_tokens=0)
        query = (self.query_embed + self.query_pos_embed).expand(patches.shape[0], -1, -1)
        x = torch.cat([query, patches + patch_pos], 1)
        positions = torch.cat([self.query_pos_embed, patch_pos], 1)
        x = self._fuse(0, x, clip_maps, size)
        outputs, last = [], len(self.encode_layers)
        for index, layer in enumerate(self.encode_layers, start=1):
            x = self._fuse(index, layer(x), clip_maps, size)
            if index in supervised or index == last:
                query, patches = x[:, : self.num_queries], x[:, self.num_queries :]
                outputs.append(self.mask_decoder(query, nlc_to_nchw(patches, size)))
            x = x + positions  # added again before every layer, as in the authors' code
        return outputs

    def _fuse(self, index: int, x: Tensor, clip_maps: Sequence[ClipMap], size: tuple[int, int]) -> Tensor:
        """Add to the patches the map of CLIP that is fused after layer ``index``, if there is one."""
        if index not in self.map_of_layer:
            return x
        i = self.map_of_layer[index]
        clip_map, _ = clip_maps[i]
        patches = nchw_to_nlc(resize(self.conv_clips[i](clip_map), size))
        return x + F.pad(patches, (0, 0, self.num_queries, 0))  # nothing for the queries, which come first


class RecWithAttnbias(nn.Module):
    """Mask recognition with attention biases: the last layers of CLIP's image encoder, with a token for each proposal.

    They are frozen, except what ``frozen_exclude`` names.

    Args:
        sos_token_format: Initial value of a proposal's token: CLIP's class token (``cls_token``), a learnable embedding
            (``learnable_token``), or the sum of the two (``pos_embedding``).
        sos_token_num: Number of proposals, Q.
        num_layers: Number of layers.
        cross_attn: The proposals' tokens attend to the image's tokens, which pass the layers alone. Otherwise both
            pass the layers as one sequence.
        embed_dims: Channels of a token.
        num_heads: Attention heads of each layer; must divide ``embed_dims``.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of ``embed_dims``.
        num_fcs: Linear layers of the feed-forward networks.
        qkv_bias: Whether the projections of the attention have a bias.
        out_dims: Channels of the proposals' embeddings; those of the class embeddings.
        final_norm: Normalise the embeddings to length 1.
        act_cfg: Activation of the feed-forward networks.
        norm_cfg: Type of the last norm.
        frozen_exclude: Parts of the names of parameters that are trained; ``all`` trains all of them.
    """

    def __init__(
        self,
        sos_token_format: TokenFormat = "cls_token",
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
            PreNormLayer(
                embed_dims, num_heads, mlp_ratio * embed_dims, num_fcs=num_fcs, qkv_bias=qkv_bias, act_cfg=act_cfg
            )
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
        """Return an embedding for each proposal, (N, Q, out_dims).

        Args:
            biases: Attention biases, one for each layer or one for all, (N, num_heads or 1, Q, h, w).
            clip_map: The last map of CLIP's image encoder.
        """
        image, cls_token = clip_map
        proposals = self._initial_tokens(cls_token)
        tokens = torch.cat([cls_token.unsqueeze(1), nchw_to_nlc(image)], 1)
        biases = [self._pool_bias(bias, (image.shape[2], image.shape[3])) for bias in biases]
        biases = biases * len(self.layers) if len(biases) == 1 else biases
        if self.cross_attn:
            proposals = self._cross_attention(proposals, tokens, biases)
        else:
            proposals = self._joint_attention(proposals, tokens, biases)
        embeddings = self.proj(self.ln_post(proposals))
        return F.normalize(embeddings, dim=-1) if self.final_norm else embeddings

    def _initial_tokens(self, cls_token: Tensor) -> Tensor:
        """Return the initial tokens of the proposals, (N, Q, C)."""
        copies = cls_token.unsqueeze(1).expand(-1, self.sos_token_num, -1)
        if self.sos_token_format == "cls_token":
            return copies
        learnable = self.sos_token.transpose(0, 1).expand_as(copies)
        return learnable if self.sos_token_format == "learnable_token" else learnable + copies

    def _pool_bias(self, bias: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a bias at the size of CLIP's map, (N, heads, Q, h * w)."""
        # The maximum, as in the authors' code: a proposal smaller than a patch of CLIP keeps its bias.
        return adaptive_max_pool(bias.flatten(1, 2), size).unflatten(1, bias.shape[1:3]).flatten(3)

    def _joint_attention(self, proposals: Tensor, tokens: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """Pass proposals and CLIP's tokens through the layers as one sequence.

        The attention mask lets a proposal attend to itself and, with its bias, to the patches, but not to the other
        proposals nor CLIP's class token. CLIP's tokens attend to one another only, as without proposals.
        """
        count = self.sos_token_num
        x = torch.cat([proposals, tokens], 1)
        cls_column = proposals.new_full((count, 1), MASKED)
        proposal_columns = torch.cat([_only_itself(proposals, MASKED), cls_column], 1)
        for layer, bias in zip(self.layers, biases, strict=True):
            proposal_rows = torch.cat([proposal_columns.expand(*bias.shape[:2], -1, -1), bias.to(x.dtype)], 3)
            token_rows = F.pad(bias.new_zeros(tokens.shape[1], tokens.shape[1]), (count, 0), value=MASKED)
            token_rows = token_rows.to(x.dtype).expand(*bias.shape[:2], -1, -1)
            x = layer(x, torch.cat([proposal_rows, token_rows], 2))
        return x[:, :count]

    def _cross_attention(self, proposals: Tensor, tokens: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """Let each proposal attend to itself and to the patches of every layer; CLIP's tokens pass the layers alone."""
        only_itself = _only_itself(proposals, -torch.inf)
        for i, (layer, bias) in enumerate(zip(self.layers, biases, strict=True)):
            mask = torch.cat([only_itself.expand(*bias.shape[:2], -1, -1), bias.to(proposals.dtype)], 3)
            proposals = layer(proposals, mask, memory=tokens[:, 1:])
            if i < len(self.layers) - 1:
                tokens = layer(tokens)
        return proposals


def _only_itself(tokens: Tensor, masked: float) -> Tensor:
    """Return an attention mask (Q, Q) for tokens (N, Q, C): 0 on the diagonal, ``masked`` elsewhere."""
    diagonal = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return torch.zeros_like(diagonal, dtype=tokens.dtype).masked_fill(~diagonal, masked)
