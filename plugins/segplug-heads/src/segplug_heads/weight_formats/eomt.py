"""EoMT as its authors and Hugging Face transformers publish it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.heads.eomt_head import EoMTHead
from segplug_heads.weight_formats.renaming import Rule, Weights, backbone_weights, rename, split

ENCODER = ("embeddings.", "layers.", "layernorm.")
UNUSED = ("criterion.", "encoder.pixel_")
"""Weights of the classes in the loss, and the normalisation of images, which is part of the config."""


class OfficialEoMT(WeightFormat):
    """The authors' names, with or without ``network.``, around timm's or transformers' vision transformers."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^q\.", "query_feat."),
        (r"^class_head\.", "cls_embed."),
        (r"^mask_head\.", "mask_embed."),
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return _has_eomt(module) and any(key.removeprefix("network.") == "q.weight" for key in keys)

    def convert(self, module: Any, weights: Weights) -> Weights:
        named = {key.removeprefix("network."): value for key, value in weights.items()}
        encoder, head = split(named, "encoder.backbone.")
        return _weights(module, encoder, rename(head, self.rules))


class TransformersEoMT(WeightFormat):
    """Hugging Face transformers' names, of EoMT on DINOv2 and on DINOv3."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^query\.", "query_feat."),
        (r"^class_predictor\.", "cls_embed."),
        (r"^mask_head\.fc([123])\.", lambda found: f"mask_embed.{2 * int(found[1]) - 2}."),
        (r"^upscale_block\.block\.(\d+)\.layernorm2d\.", r"upscale.\1.norm."),
        (r"^upscale_block\.block\.", "upscale."),
    )
    encoder_rules: ClassVar[tuple[Rule, ...]] = (
        (r"^layers\.", "layer."),
        (r"\.attention\.out_proj\.", ".attention.o_proj."),
    )
    """From the names of EoMT's encoder to those of DINO."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return _has_eomt(module) and {"query.weight", "class_predictor.weight"} <= set(keys)

    def convert(self, module: Any, weights: Weights) -> Weights:
        inner = {
            key: value for key, value in weights.items() if key.startswith(("embeddings.", "layers.", "layernorm."))
        }
        encoder = rename(inner, self.encoder_rules)
        encoder = {key: value for key, value in encoder.items() if value.numel()}  # there may be no register tokens
        if (positions := encoder.pop("embeddings.position_embeddings.weight", None)) is not None:
            encoder["embeddings.position_embeddings"] = positions.unsqueeze(0)
        rest = {key: value for key, value in weights.items() if key not in inner}
        return _weights(module, encoder, rename(rest, self.rules))


def _has_eomt(module: nn.Module) -> bool:
    return isinstance(getattr(module, "decode_head", None), EoMTHead)


def _weights(module: Any, encoder: Weights, head: Weights) -> Weights:
    named = {f"decode_head.{key}": value for key, value in head.items() if not key.startswith(UNUSED)}
    return backbone_weights(module, encoder) | named
