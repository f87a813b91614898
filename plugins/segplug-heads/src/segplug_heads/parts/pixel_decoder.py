"""Pixel decoders: backbone maps to one fine map for the masks, and to what the queries read.

Cheng et al., Per-Pixel Classification is Not All You Need for Semantic Segmentation (MaskFormer), 2021, and
Masked-attention Mask Transformer for Universal Image Segmentation (Mask2Former), 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, LayerConfig, nchw_to_nlc, nlc_to_nchw, resize
from segplug_heads.parts.deformable_attention import DeformableEncoder, DeformableEncoderConfig, centres
from segplug_heads.parts.query_transformer import (
    Encoder,
    EncoderConfig,
    SineConfig,
    SinePositionalEncoding,
    xavier_init,
)

GN: LayerConfig = {"type": "GN", "num_groups": 32}
RELU: LayerConfig = {"type": "ReLU"}
SINES: SineConfig = {"num_feats": 128, "normalize": True}


class PixelDecoderBase(nn.Module):
    """Feature maps, finest first -> the map for the masks, and the memories that the queries read, coarsest first."""

    component_group = "parts"

    memory_channels: int
    """Channels of the memories."""

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError


class PixelDecoder(PixelDecoderBase):
    """A feature pyramid: maps are added from coarse to fine. The memory is the backbone's last map (MaskFormer).

    -> (N, out_channels, H, W) at the finest map's size, and the coarsest map.

    Args:
        in_channels: Channels of each map, finest first.
        feat_channels: Channels of the pyramid.
        out_channels: Channels for the masks.
        norm_cfg: Kind of norm; none for None.
        act_cfg: Kind of activation.
    """

    conformance: ClassVar = {"in_channels": [8, 16], "feat_channels": 32, "out_channels": 8}

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        norm_cfg: LayerConfig | None = GN,
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
        self.last_feat_conv: nn.Module | None = ConvModule(
            in_channels[-1], feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 3, padding=1)
        fan_in_init(self)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        memory = features[-1]
        return self.mask_feature(self.climb(self.last_feat_conv(memory), features)), [memory]  # type: ignore[misc]

    def climb(self, x: Tensor, features: Features) -> Tensor:
        """Add the finer maps to ``x``, the coarsest."""
        levels = list(zip(features, self.lateral_convs, self.output_convs, strict=False))
        for fine, lateral, output in reversed(levels):
            fine = lateral(fine)
            x = output(fine + resize(x, fine.shape[2:], mode="nearest"))
        return x


class TransformerEncoderPixelDecoder(PixelDecoder):
    """A `PixelDecoder` whose coarsest map passes a transformer, and is then the memory.

    -> (N, out_channels, H, W) at the finest map's size, and (N, feat_channels, h, w) at the coarsest.

    Args:
        in_channels: Channels of each map, finest first.
        feat_channels: Channels of the pyramid and of the transformer.
        out_channels: Channels for the masks.
        norm_cfg: Kind of norm; none for None.
        act_cfg: Kind of activation.
        encoder: The transformer.
        positional_encoding: Where its tokens are.
    """

    conformance: ClassVar = {"in_channels": [8, 16], "feat_channels": 256, "out_channels": 8}

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_channels: int,
        out_channels: int,
        norm_cfg: LayerConfig | None = GN,
        act_cfg: LayerConfig | None = RELU,
        encoder: EncoderConfig = {},  # noqa: B006  never changed
        positional_encoding: SineConfig = SINES,
    ) -> None:
        super().__init__(in_channels, feat_channels, out_channels, norm_cfg, act_cfg)
        self.memory_channels = feat_channels
        self.last_feat_conv = None
        self.encoder = Encoder(**encoder)
        check_width(self.encoder.embed_dims, feat_channels, "encoder")
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
        return self.mask_feature(self.climb(self.encoder_out_proj(memory), features)), [memory]


class MSDeformAttnPixelDecoder(PixelDecoderBase):
    """The coarser maps look at one another by deformable attention, the finer ones are added as in a pyramid.

    -> (N, out_channels, H, W) at the finest map's size, and ``num_outs`` maps of ``feat_channels``, coarsest first.

    Args:
        in_channels: Channels of each map, finest first.
        strides: Of each map; kept for configs that name them, as only the maps' sizes matter.
        feat_channels: Channels of the pyramid and of the transformer.
        out_channels: Channels for the masks.
        num_outs: Number of memories.
        norm_cfg: Kind of norm; none for None.
        act_cfg: Kind of activation.
        encoder: The transformer; its ``num_levels`` says how many maps pass it.
        positional_encoding: Where its tokens are.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 1024, 2048),
        strides: Sequence[int] = (4, 8, 16, 32),
        feat_channels: int = 256,
        out_channels: int = 256,
        num_outs: int = 3,
        norm_cfg: LayerConfig | None = GN,
        act_cfg: LayerConfig | None = RELU,
        encoder: DeformableEncoderConfig = {},  # noqa: B006  never changed
        positional_encoding: SineConfig = SINES,
    ) -> None:
        super().__init__()
        self.memory_channels, self.num_outs = feat_channels, num_outs
        levels = encoder.get("layer_cfg", {}).get("self_attn_cfg", {}).get("num_levels", 4)
        if not 1 <= levels <= len(in_channels):
            raise ConfigError(Problem(f"{levels} levels of {len(in_channels)} maps", "encoder"))
        coarse, fine = list(in_channels)[::-1][:levels], list(in_channels)[::-1][levels:]
        self.input_convs = nn.ModuleList(
            ConvModule(width, feat_channels, 1, bias=True, norm_cfg=norm_cfg, act_cfg=None) for width in coarse
        )
        self.encoder = DeformableEncoder(**encoder)
        check_width(self.encoder.embed_dims, feat_channels, "encoder")
        self.positional_encoding = SinePositionalEncoding(**positional_encoding)
        self.level_encoding = nn.Embedding(levels, feat_channels)
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, feat_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for width in fine
        )
        self.output_convs = nn.ModuleList(
            ConvModule(feat_channels, feat_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg) for _ in fine
        )
        self.mask_feature = nn.Conv2d(feat_channels, out_channels, 1)
        fan_in_init(self)
        xavier_init(self.input_convs)

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        coarsest_first = list(features)[::-1]
        outputs = self._encode([conv(x) for conv, x in zip(self.input_convs, coarsest_first, strict=False)])
        rest = coarsest_first[len(outputs) :]
        for x, lateral, output in zip(rest, self.lateral_convs, self.output_convs, strict=True):
            x = lateral(x)
            outputs.append(output(x + resize(outputs[-1], x.shape[2:])))
        return self.mask_feature(outputs[-1]), outputs[: self.num_outs]

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Return maps (N, feat_channels, h, w) after the transformer."""
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        positions = [
            level + self.positional_encoding(x) for level, x in zip(self.level_encoding.weight, maps, strict=True)
        ]
        places = torch.cat([centres(size, maps[0].device) for size in sizes])
        tokens = self.encoder(torch.cat([nchw_to_nlc(x) for x in maps], 1), torch.cat(positions, 1), places, sizes)
        parts = tokens.split([height * width for height, width in sizes], 1)
        return [nlc_to_nchw(part, size) for part, size in zip(parts, sizes, strict=True)]


def fan_in_init(module: nn.Module) -> None:
    """Draw the kernels of all convolutions below ``module`` for inputs of unit variance; biases become 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_width(width: int, wanted: int, path: str) -> None:
    """Refuse a transformer of another width.

    Raises:
        ConfigError: ``width`` is not ``wanted``.
    """
    if width != wanted:
        message = f"its attention has {width} channels, but feat_channels is {wanted}"
        raise ConfigError(Problem(message, path, hint="set embed_dims in its layer_cfg"))
