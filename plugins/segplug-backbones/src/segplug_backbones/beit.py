"""BEiT: a vision transformer with relative position biases and layer scale.

    backbone = BEiT(img_size=640, out_indices=(3, 5, 7, 11))
    features = backbone(torch.rand(2, 3, 640, 640))  # four maps of 768 channels at stride 16

BEiT: BERT Pre-Training of Image Transformers, Bao et al., 2022 (https://arxiv.org/abs/2106.08254).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.nn import (
    FFN,
    DropPath,
    LayerConfig,
    PatchEmbed,
    build_norm,
    check_out_indices,
    is_tracing,
    linear_drop_path_rates,
    nlc_to_nchw,
    resize,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.positions import interpolate_relative_position_bias
from segplug_backbones.pretrained import Pretrained
from segplug_backbones.vit import Grid, NumberedLayers, init_weights, patch_grid

TOKEN_ROWS = 3
"""Last rows of a bias table: class token to patch, patch to class token, class token to itself."""


def relative_position_index(height: int, width: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens, (1 + height * width, 1 + height * width).

    The table has a row for each of the (2 height - 1) (2 width - 1) offsets between patches, then `TOKEN_ROWS`.
    """
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    # Offsets start at -(height - 1) and -(width - 1); shifted to 0 they number the table row by row, down first.
    down, right = y[:, None] - y + height - 1, x[:, None] - x + width - 1
    offsets = (2 * height - 1) * (2 * width - 1)
    # The three `TOKEN_ROWS` follow at offsets, offsets + 1 and offsets + 2: the authors' order.
    index = torch.cat([torch.full((height * width, 1), offsets + 1), down * (2 * width - 1) + right], 1)
    from_class = torch.cat([torch.full((1, 1), offsets + 2), torch.full((1, height * width), offsets)], 1)
    return torch.cat([from_class, index])


class BEiTAttention(nn.Module):
    """Attention with relative position biases: (N, 1 + h * w, C) -> the same shape.

    Args:
        embed_dims: C.
        num_heads: Attention heads; must divide ``embed_dims``.
        window_size: Patches (h, w) that the biases are for; they are interpolated to other sizes.
        bias: Whether queries, keys and values have a bias; ``qv_bias``: queries and values only.
        attn_drop_rate: Dropout rate of the attention weights.
        interpolate_mode: Interpolation of the biases.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: Grid,
        bias: bool | str,
        attn_drop_rate: float,
        interpolate_mode: str = "bicubic",
    ) -> None:
        super().__init__()
        self.interpolate_mode = interpolate_mode
        self.num_heads, self.window_size, self.attn_drop_rate = num_heads, window_size, attn_drop_rate
        self.q_bias: nn.Parameter | None = None
        self.v_bias: nn.Parameter | None = None
        if bias == "qv_bias":
            self.q_bias = nn.Parameter(torch.zeros(embed_dims))
            self.v_bias = nn.Parameter(torch.zeros(embed_dims))
        rows = (2 * window_size[0] - 1) * (2 * window_size[1] - 1) + TOKEN_ROWS
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_position_index(*window_size))
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=bias is True)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, size: Grid) -> Tensor:
        """Return the attention of the tokens ``x`` of ``size`` (h, w) patches and a class token."""
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            # Keys need no bias: it would add the same to all logits of a query.
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop_rate if self.training else 0.0
        position_bias = self.position_bias(size).to(query.dtype)
        attended = F.scaled_dot_product_attention(query, key, value, position_bias, dropout)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def position_bias(self, size: Grid) -> Tensor:
        """Return the bias of the logits, (heads, 1 + h * w, 1 + h * w)."""
        table: Tensor = self.relative_position_bias_table
        index = self.relative_position_index
        # A traced graph serves all sizes and so cannot compare them; at the table's own size resizing changes nothing.
        if is_tracing() or tuple(size) != tuple(self.window_size):
            table, index = self._interpolate(table, size), relative_position_index(*size).to(table.device)
        return table[index].permute(2, 0, 1)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate a bias table of another window size."""
        if name != "relative_position_bias_table":
            return None
        return interpolate_relative_position_bias(value, self.window_size, TOKEN_ROWS)

    def _interpolate(self, table: Tensor, size: Grid) -> Tensor:
        (height, width), (h, w) = self.window_size, size
        offsets = table[:-TOKEN_ROWS].view(2 * height - 1, 2 * width - 1, -1).permute(2, 0, 1)
        offsets = resize(offsets.unsqueeze(0), (2 * h - 1, 2 * w - 1), mode=self.interpolate_mode)
        return torch.cat([offsets.flatten(2).squeeze(0).T, table[-TOKEN_ROWS:]])


class BEiTLayer(nn.Module):
    """Attention and a feed-forward network, each after a norm and with layer scale: (N, 1 + h * w, C) -> the same.

    ``gamma_1`` and ``gamma_2`` are the layer scale (Touvron et al., Going deeper with Image Transformers, 2021).
    """

    def __init__(
        self,
        embed_dims: int,
        *,
        num_heads: int,
        feedforward_channels: int,
        window_size: Grid,
        bias: bool | str,
        attn_drop_rate: float,
        drop_path_rate: float,
        num_fcs: int,
        act_cfg: LayerConfig,
        norm_cfg: LayerConfig,
        init_values: float,
        interpolate_mode: str,
    ) -> None:
        super().__init__()
        self.ln1 = build_norm(norm_cfg, embed_dims)[1]
        self.attn = BEiTAttention(
            embed_dims, num_heads, window_size, bias, attn_drop_rate, interpolate_mode=interpolate_mode
        )
        self.ln2 = build_norm(norm_cfg, embed_dims)[1]
        self.ffn = FFN(embed_dims, feedforward_channels, num_fcs=num_fcs, act_cfg=act_cfg, add_identity=False)
        self.drop_path = DropPath(drop_path_rate)
        # MMSegmentation's configs start from 0.1 in the base model and from 1e-6 in the large one.
        self.gamma_1 = nn.Parameter(torch.full((embed_dims,), init_values))
        self.gamma_2 = nn.Parameter(torch.full((embed_dims,), init_values))

    def forward(self, x: Tensor, size: Grid) -> Tensor:
        x = x + self.drop_path(self.gamma_1 * self.attn(self.ln1(x), size))
        return x + self.drop_path(self.gamma_2 * self.ffn(self.ln2(x)))


class BEiT(Pretrained, NumberedLayers):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, (N, embed_dims, H // patch, W // patch).

    Any image size will do: the position biases are interpolated.

    Args:
        img_size: Side, or (height, width) in pixels, of the images that the position biases are for.
        patch_size: Side of a patch in pixels, the stride of all maps.
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        num_layers: Transformer layers.
        num_heads: Attention heads of each layer.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of ``embed_dims``.
        out_indices: The layers whose outputs are returned, counted from 0; -1 is the last.
        qv_bias: Whether queries and values have a bias.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        patch_norm: Add a norm after the patch embedding.
        final_norm: Add a norm after the last layer.
        num_fcs: Linear layers of each feed-forward network.
        norm_eval: MMSegmentation's, without effect: layer norm is the same in training and evaluation mode.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        init_values: Initial layer scale.
        interpolate_mode: Interpolation of the position biases; transformers' is bilinear.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = {
        "img_size": 64, "embed_dims": 8, "num_layers": 3, "num_heads": 2, "out_indices": (0, 2), "final_norm": True
    }  # fmt: skip

    def __init__(
        self,
        img_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 224,
        patch_size: PositiveInt = 16,
        in_channels: PositiveInt = 3,
        embed_dims: PositiveInt = 768,
        num_layers: PositiveInt = 12,
        num_heads: PositiveInt = 12,
        mlp_ratio: PositiveInt = 4,
        out_indices: int | Sequence[int] = -1,
        qv_bias: bool = True,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        patch_norm: bool = False,
        final_norm: bool = False,
        num_fcs: PositiveInt = 2,
        norm_eval: bool = False,
        pretrained: str | None = None,
        init_values: NonNegative = 0.1,
        interpolate_mode: Literal["bilinear", "bicubic"] = "bicubic",
        adapt: Adapter | None = None,
    ) -> None:
        super().__init__()
        self.grid = patch_grid(img_size, patch_size)
        self.out_indices = check_out_indices(out_indices, num_layers, from_end=True)
        self.pretrained, self.adapt = pretrained, adapt
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, kernel_size=patch_size, padding=0, norm_cfg=norm_cfg if patch_norm else None
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.layers = nn.ModuleList(
            BEiTLayer(
                embed_dims,
                num_heads=num_heads,
                feedforward_channels=mlp_ratio * embed_dims,
                window_size=self.grid,
                bias=self._qkv_bias(qv_bias),
                attn_drop_rate=attn_drop_rate,
                drop_path_rate=rate,
                num_fcs=num_fcs,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                init_values=init_values,
                interpolate_mode=interpolate_mode,
            )
            for rate in linear_drop_path_rates(drop_path_rate, num_layers)
        )
        self.ln1 = build_norm(norm_cfg, embed_dims)[1] if final_norm else None
        self.channels = (embed_dims,) * len(self.out_indices)
        self.strides = (patch_size,) * len(self.out_indices)
        self.apply(init_weights)
        self._init_weights()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of ``out_indices``, (N, embed_dims, h, w)."""
        tokens, size = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = self._add_positions(tokens, size)
        outputs = []
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens, size)
            if self.ln1 is not None and i == len(self.layers) - 1:
                tokens = self.ln1(tokens)
            if i in self.out_indices:
                outputs.append(nlc_to_nchw(tokens[:, 1:], size))
        return tuple(outputs)

    def _qkv_bias(self, qv_bias: bool) -> bool | str:
        """Return the ``bias`` of the attention, which `MAE` has for keys as well."""
        return "qv_bias" if qv_bias else False

    def _add_positions(self, tokens: Tensor, size: Grid) -> Tensor:
        """Return the tokens with absolute position embeddings, which only `MAE` has."""
        return tokens

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, BEiTAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
