"""Vision transformer (ViT): attention between all patches of an image, at one scale.

    backbone = VisionTransformer(img_size=512, out_indices=(2, 5, 8, 11))
    features = backbone(torch.rand(2, 3, 512, 512))  # four maps of 768 channels at stride 16

An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, Dosovitskiy et al., 2021
(https://arxiv.org/abs/2010.11929). ``pre_norm``, ``patch_bias=False`` and QuickGELU make it the image encoder of CLIP:
Learning Transferable Visual Models From Natural Language Supervision, Radford et al., 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from segkernel.annotations import NonNegativeInt, PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Backbone
from segkernel.nn import (
    PatchEmbed,
    TransformerEncoderLayer,
    build_norm,
    check_out_indices,
    linear_drop_path_rates,
    nlc_to_nchw,
    resize_pos_embed,
    trunc_normal_init,
)
from segplug_backbones.adapters import Adapter
from segplug_backbones.positions import interpolate_pos_embed, interpolate_positions
from segplug_backbones.pretrained import Pretrained

Grid = tuple[int, int]


class NumberedLayers(Backbone):
    """A transformer whose layers are called ``layers.0``, ``layers.1``, ...: it knows how deep a parameter is."""

    def layer_of(self, parameter: str, num_layers: int, stage_wise: bool = False) -> int | None:
        if stage_wise:
            return super().layer_of(parameter, num_layers, stage_wise)
        first, _, rest = parameter.partition(".")
        if first == "layers":
            return int(rest.partition(".")[0]) + 1
        return 0 if first in ("cls_token", "mask_token", "pos_embed", "patch_embed", "ln_pre") else None


class VisionTransformer(Pretrained, NumberedLayers):
    """Images (N, in_channels, H, W) to one map for each of ``out_indices``, (N, embed_dims, ~H / patch, ~W / patch).

    Any image size will do: the position embeddings are interpolated.

    Args:
        img_size: Side, or (height, width) in pixels, of the images that the position embeddings are for.
        patch_size: Side of a patch in pixels, the stride of all maps.
        patch_pad: Padding to whole patches, ``corner`` or ``same`` as in `segkernel.nn.AdaptivePadding`; or a number of
            pixels on each side, 0 to drop incomplete patches.
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        num_layers: Transformer layers.
        num_heads: Attention heads of each layer.
        mlp_ratio: Hidden width of the feed-forward networks, as a multiple of ``embed_dims``.
        out_origin: Return the tokens before the first layer as well, as the first map.
        out_indices: The layers whose outputs are returned, counted from 0; -1 is the last.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout rate of the tokens, of the projections and in the feed-forward networks.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Drop path rate of the last layer; it rises linearly from 0 at the first one.
        with_cls_token: Whether the layers see the class token.
        output_cls_token: Return pairs of a map and the class token (N, embed_dims) instead of maps.
        norm_cfg: Type of the norms and its arguments.
        act_cfg: Type of the activations.
        patch_norm: Add a norm after the patch embedding.
        patch_bias: Whether the patch embedding has a bias.
        pre_norm: Add a norm before the first layer.
        final_norm: Add a norm after the last layer.
        interpolate_mode: Interpolation of the position embeddings.
        num_fcs: Linear layers of each feed-forward network.
        norm_eval: MMSegmentation's, without effect: layer norm is the same in training and evaluation mode.
        with_cp: Activation checkpointing: less memory, a second forward pass in training.
        frozen_exclude: Parameters whose name contains one of these train, all others are frozen; ``all`` freezes none.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.
        adapt: Parameters to add that train in place of the backbone's own, such as ``{type: LoRA, rank: 8}``.
        interpolate_antialias: Interpolate the position embeddings bicubically with antialiasing, as timm does.

    Raises:
        ConfigError: When an argument is out of range or does not fit the others.
    """

    conformance: ClassVar = (
        {"img_size": 64, "embed_dims": 8, "num_layers": 3, "num_heads": 2, "out_indices": (0, 2)},
        {"img_size": 64, "embed_dims": 8, "num_layers": 2, "num_heads": 2, "pre_norm": True, "out_origin": True},
    )

    def __init__(
        self,
        img_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 224,
        patch_size: PositiveInt = 16,
        patch_pad: NonNegativeInt | Literal["same", "corner"] = "corner",
        in_channels: PositiveInt = 3,
        embed_dims: PositiveInt = 768,
        num_layers: PositiveInt = 12,
        num_heads: PositiveInt = 12,
        mlp_ratio: PositiveInt = 4,
        out_origin: bool = False,
        out_indices: int | Sequence[int] = -1,
        qkv_bias: bool = True,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Probability = 0.0,
        with_cls_token: bool = True,
        output_cls_token: bool = False,
        norm_cfg: Mapping[str, Any] = {"type": "LN"},
        act_cfg: Mapping[str, Any] = {"type": "GELU"},
        patch_norm: bool = False,
        patch_bias: bool = False,
        pre_norm: bool = False,
        final_norm: bool = False,
        interpolate_mode: Literal["bilinear", "bicubic", "nearest"] = "bicubic",
        num_fcs: PositiveInt = 2,
        norm_eval: bool = False,
        with_cp: bool = False,
        frozen_exclude: Sequence[str] = ("all",),
        pretrained: str | None = None,
        adapt: Adapter | None = None,
        interpolate_antialias: bool = False,
    ) -> None:
        super().__init__()
        if output_cls_token and not with_cls_token:
            raise ConfigError(Problem("there is no class token to return without with_cls_token", "output_cls_token"))
        self.grid = patch_grid(img_size, patch_size)
        self.out_origin, self.out_indices = out_origin, check_out_indices(out_indices, num_layers, from_end=True)
        self.with_cls_token, self.output_cls_token = with_cls_token, output_cls_token
        self.interpolate_mode, self.pretrained = interpolate_mode, pretrained
        self.adapt = adapt
        self.interpolate_antialias = interpolate_antialias
        self.patch_embed = PatchEmbed(
            in_channels,
            embed_dims,
            kernel_size=patch_size,
            padding=patch_pad,
            bias=patch_bias,
            norm_cfg=norm_cfg if patch_norm else None,
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.ln_pre = build_norm(norm_cfg, embed_dims)[1] if pre_norm else None
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(
                embed_dims,
                num_heads=num_heads,
                feedforward_channels=mlp_ratio * embed_dims,
                drop_rate=drop_rate,
                attn_drop_rate=attn_drop_rate,
                drop_path_rate=rate,
                num_fcs=num_fcs,
                qkv_bias=qkv_bias,
                act_cfg=act_cfg,
                norm_cfg=norm_cfg,
                with_cp=with_cp,
            )
            for rate in linear_drop_path_rates(drop_path_rate, num_layers)
        )
        self.ln1 = build_norm(norm_cfg, embed_dims)[1] if final_norm else None
        maps = len(self.out_indices) + out_origin
        self.channels, self.strides = (embed_dims,) * maps, (patch_size,) * maps
        self.apply(init_weights)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self._freeze(frozen_exclude)

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate position embeddings of another image size."""
        return interpolate_pos_embed(value, self.grid) if name == "pos_embed" else None

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        """Return the maps (N, embed_dims, h, w), or with ``output_cls_token`` pairs of a map and a token."""
        tokens, size = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = self.drop_after_pos(tokens + self._positions(size))
        if not self.with_cls_token:  # as in the reference, it is dropped only after the positions are added
            tokens = tokens[:, 1:]
        if self.ln_pre is not None:
            tokens = self.ln_pre(tokens)
        outputs = [self._output(tokens, size)] if self.out_origin else []
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens)
            # Only the last map is normalised, even if earlier ones are returned as well.
            if self.ln1 is not None and i == len(self.layers) - 1:
                tokens = self.ln1(tokens)
            if i in self.out_indices:
                outputs.append(self._output(tokens, size))
        return tuple(outputs)

    def _positions(self, size: Grid) -> Tensor:
        if self.interpolate_antialias:
            return interpolate_positions(self.pos_embed, self.grid, size, antialias=True)
        return resize_pos_embed(self.pos_embed, self.grid, size, self.interpolate_mode)

    def _output(self, tokens: Tensor, size: Grid) -> Tensor | tuple[Tensor, Tensor]:
        feature_map = nlc_to_nchw(tokens[:, 1:] if self.with_cls_token else tokens, size)
        return (feature_map, tokens[:, 0]) if self.output_cls_token else feature_map

    def _freeze(self, exclude: Sequence[str]) -> None:
        if "all" in exclude:
            return
        for name, parameter in self.named_parameters():
            parameter.requires_grad = any(part in name for part in exclude)


def patch_grid(img_size: int | Sequence[int], patch_size: int) -> Grid:
    """Return the number of patches of an image, (rows, columns).

    Raises:
        ConfigError: When the size is neither a number nor two.
    """
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) == 1:
        sides *= 2
    if len(sides) != 2:
        raise ConfigError(Problem(f"{list(sides)} is not (height, width)", "img_size"))
    return sides[0] // patch_size, sides[1] // patch_size


def init_weights(module: nn.Module) -> None:
    """Initialise a linear layer or the patch embedding, for ``module.apply``."""
    if isinstance(module, nn.Linear):
        trunc_normal_init(module, std=0.02)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
