"""Pixel decoders: backbone features to per-pixel mask features, and to the memories that queries attend to.

Per-Pixel Classification is Not All You Need for Semantic Segmentation (MaskFormer), Cheng, Schwing and Kirillov, 2021
(https://arxiv.org/abs/2107.06278), and Masked-attention Mask Transformer for Universal Image Segmentation
(Mask2Former), Cheng et al., 2022 (https://arxiv.org/abs/2112.01527).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.annotations import PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, LayerConfig, nchw_to_nlc, nlc_to_nchw, resize
from segplug_heads.parts.deformable_attention import DeformableEncoder, DeformableEncoderConfig, cell_centres
from segplug_heads.parts.query_transformer import (
    Encoder,
    EncoderConfig,
    SineConfig,
    SinePositionalEncoding,
    xavier_init,
)

GROUP_NORM: LayerConfig = {"type": "GN", "num_groups": 32}
RELU: LayerConfig = {"type": "ReLU"}
SINE_ENCODING: SineConfig = {"num_feats": 128, "normalize": True}


class PixelDecoderBase(nn.Module):
    """Feature maps, finest first -> mask features, and memories that queries attend to, coarsest first.

    Mask features are (N, out_channels, H, W) at the size of the finest map.
    """

    component_group = "parts"

    memory_channels: int
    """Channels of the memories."""

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError


class PixelDecoder(PixelDecoderBase):
    """A feature pyramid; the memory is the backbone's coarsest map as it is (MaskFormer).

    Args:
        in_channels: Channels of each map, finest first.
        feat_channels: Channels of the pyramid.
        out_channels: Channels of the mask features.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations.
    """

    conformance: ClassVar = {"in_channels": [8, 16], "feat_channels": 32, "out_channels": 8}

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        feat_channels: PositiveInt,
        out_channels: PositiveInt,
        norm_cfg: LayerConfig | None = GROUP_NORM,
        act_cfg: LayerConfig | None = RELU,
    ) -> None:
        super().__init__()
        self.memory_channels = in_channels[-1]
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, feat_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for width in in_channels[:-1]
        )
        self.output_convs = nn.ModuleList(
            ConvModule(feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
            for _ in in_channels[:-1]
        )
        self.last_feat_conv = ConvModule(
            in_channels[-1], feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)
        fan_in_init(self)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        memory = features[-1]
        return self.mask_feature(self.top_down(self.last_feat_conv(memory), features)), [memory]

    def top_down(self, x: Tensor, features: Features) -> Tensor:
        """Upsample ``x``, the coarsest level, step by step and add the finer maps."""
        levels = list(zip(features, self.lateral_convs, self.output_convs, strict=False))
        for feature, lateral_conv, output_conv in reversed(levels):
            lateral = lateral_conv(feature)
            x = output_conv(lateral + resize(x, lateral.shape[2:], mode="nearest"))
        return x


class TransformerEncoderPixelDecoder(PixelDecoder):
    """A `PixelDecoder` with a transformer encoder on the coarsest map, whose output is the memory.

    Args:
        in_channels: Channels of each map, finest first.
        feat_channels: Channels of the pyramid and of the transformer.
        out_channels: Channels of the mask features.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations.
        encoder: Arguments of the `Encoder`.
        positional_encoding: Arguments of the `SinePositionalEncoding` of its tokens.

    Raises:
        ConfigError: The encoder's tokens have other than ``feat_channels`` channels.
    """

    conformance: ClassVar = {"in_channels": [8, 16], "feat_channels": 256, "out_channels": 8}

    def __init__(
        self,
        in_channels: Sequence[PositiveInt],
        feat_channels: PositiveInt,
        out_channels: PositiveInt,
        norm_cfg: LayerConfig | None = GROUP_NORM,
        act_cfg: LayerConfig | None = RELU,
        encoder: EncoderConfig = {},  # noqa: B006  never changed
        positional_encoding: SineConfig = SINE_ENCODING,
    ) -> None:
        super().__init__(in_channels, feat_channels, out_channels, norm_cfg, act_cfg)
        self.memory_channels = feat_channels
        del self.last_feat_conv  # encoder_out_proj takes its place
        self.encoder = Encoder(**encoder)
        check_embed_dims(self.encoder.embed_dims, feat_channels, "encoder")
        self.positional_encoding = SinePositionalEncoding(**positional_encoding)
        self.encoder_in_proj = nn.Conv2d(in_channels[-1], feat_channels, 1)
        self.encoder_out_proj = ConvModule(
            feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        fan_in_init(self)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        x = self.encoder_in_proj(features[-1])
        tokens = self.encoder(nchw_to_nlc(x), self.positional_encoding(x))
        memory = nlc_to_nchw(tokens, (x.shape[2], x.shape[3]))
        return self.mask_feature(self.top_down(self.encoder_out_proj(memory), features)), [memory]


class MSDeformAttnPixelDecoder(PixelDecoderBase):
    """Deformable attention across the coarser maps, and a feature pyramid on top of them (Mask2Former).

    The memories are ``num_outs`` maps of ``feat_channels``.

    Args:
        in_channels: Channels of each map, finest first.
        strides: Stride of each map; not used, accepted for existing configs, as only the sizes of maps matter.
        feat_channels: Channels of the pyramid and of the transformer.
        out_channels: Channels of the mask features.
        num_outs: Number of memories.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations.
        encoder: Arguments of the `DeformableEncoder`; its ``num_levels`` is the number of maps that it takes.
        positional_encoding: Arguments of the `SinePositionalEncoding` of its tokens.

    Raises:
        ConfigError: The encoder takes more maps than there are, or its tokens have other than ``feat_channels``
            channels.
    """

    def __init__(
        self,
        in_channels: Sequence[PositiveInt] = (256, 512, 1024, 2048),
        strides: Sequence[PositiveInt] = (4, 8, 16, 32),
        feat_channels: PositiveInt = 256,
        out_channels: PositiveInt = 256,
        num_outs: PositiveInt = 3,
        norm_cfg: LayerConfig | None = GROUP_NORM,
        act_cfg: LayerConfig | None = RELU,
        encoder: DeformableEncoderConfig = {},  # noqa: B006  never changed
        positional_encoding: SineConfig = SINE_ENCODING,
    ) -> None:
        super().__init__()
        self.memory_channels, self.num_outs = feat_channels, num_outs
        levels = encoder.get("layer_cfg", {}).get("self_attn_cfg", {}).get("num_levels", 4)
        if not 1 <= levels <= len(in_channels):
            raise ConfigError(Problem(f"{levels} levels of {len(in_channels)} maps", "encoder"))
        coarsest_first = list(in_channels)[::-1]
        encoded, rest = coarsest_first[:levels], coarsest_first[levels:]
        self.input_convs = nn.ModuleList(
            # The bias, redundant before a norm, is in the published weights.
            ConvModule(width, feat_channels, 1, bias=True, norm_cfg=norm_cfg, act_cfg=None)
            for width in encoded
        )
        self.encoder = DeformableEncoder(**encoder)
        check_embed_dims(self.encoder.embed_dims, feat_channels, "encoder")
        self.positional_encoding = SinePositionalEncoding(**positional_encoding)
        self.level_encoding = nn.Embedding(levels, feat_channels)
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, feat_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for width in rest
        )
        self.output_convs = nn.ModuleList(
            ConvModule(feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg) for _ in rest
        )
        # 1x1 here and 3x3 in MaskFormer's, after the respective authors' code.
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 1)
        fan_in_init(self)
        xavier_init(self.input_convs)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        coarsest_first = list(features)[::-1]
        outputs = self._encode([conv(x) for conv, x in zip(self.input_convs, coarsest_first, strict=False)])
        rest = coarsest_first[len(outputs) :]
        for feature, lateral_conv, output_conv in zip(rest, self.lateral_convs, self.output_convs, strict=True):
            lateral = lateral_conv(feature)
            outputs.append(output_conv(lateral + resize(outputs[-1], lateral.shape[2:])))
        return self.mask_feature(outputs[-1]), outputs[: self.num_outs]

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Pass maps (N, feat_channels, h, w) through the transformer as one sequence of tokens."""
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        positions = [
            level + self.positional_encoding(x) for level, x in zip(self.level_encoding.weight, maps, strict=True)
        ]
        reference_points = torch.cat([cell_centres(size, maps[0].device) for size in sizes])
        tokens = torch.cat([nchw_to_nlc(x) for x in maps], 1)
        tokens = self.encoder(tokens, torch.cat(positions, 1), reference_points, sizes)
        parts = tokens.split([height * width for height, width in sizes], 1)
        return [nlc_to_nchw(part, size) for part, size in zip(parts, sizes, strict=True)]


def fan_in_init(module: nn.Module) -> None:
    """Draw the weights of all convolutions below ``module`` uniformly, scaled by their fan-in; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_embed_dims(embed_dims: int, feat_channels: int, path: str) -> None:
    """Refuse a transformer whose tokens have other channels than the maps.

    Args:
        embed_dims: Channels of its tokens.
        feat_channels: Channels of the maps.
        path: The argument that describes the transformer.

    Raises:
        ConfigError: The two differ.
    """
    if embed_dims != feat_channels:
        message = f"its attention has {embed_dims} channels, but feat_channels is {feat_channels}"
        raise ConfigError(Problem(message, path, hint="set embed_dims in its layer_cfg"))
