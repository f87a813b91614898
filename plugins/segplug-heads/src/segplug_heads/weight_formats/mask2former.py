"""Mask2Former as Hugging Face transformers and its authors (Detectron2) publish it, around any backbone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.heads.mask2former_head import Mask2FormerHead
from segplug_heads.weight_formats.renaming import Rule, Weights, backbone_weights, join_in_proj, rename, split

TRANSFORMERS_BACKBONE = "model.pixel_level_module.encoder."
TRANSFORMERS_PIXEL_DECODER: tuple[Rule, ...] = (
    (r"^model\.pixel_level_module\.decoder\.", "pixel_decoder."),
    (r"^(pixel_decoder)\.level_embed$", r"\1.level_encoding.weight"),
    (r"^(pixel_decoder)\.input_projections\.(\d)\.0\.", r"\1.input_convs.\2.conv."),
    (r"^(pixel_decoder)\.input_projections\.(\d)\.1\.", r"\1.input_convs.\2.gn."),
    (r"^(pixel_decoder)\.adapter_1\.0\.", r"\1.lateral_convs.0.conv."),
    (r"^(pixel_decoder)\.adapter_1\.1\.", r"\1.lateral_convs.0.gn."),
    (r"^(pixel_decoder)\.layer_1\.0\.", r"\1.output_convs.0.conv."),
    (r"^(pixel_decoder)\.layer_1\.1\.", r"\1.output_convs.0.gn."),
    (r"^(pixel_decoder)\.mask_projection\.", r"\1.mask_feature."),
    (r"^(pixel_decoder\..*)\.self_attn_layer_norm\.", r"\1.norms.0."),
    (r"^(pixel_decoder\..*)\.final_layer_norm\.", r"\1.norms.1."),
    (r"\.fc1\.", ".ffn.layers.0.0."),
    (r"\.fc2\.", ".ffn.layers.1."),
)
DETECTRON2_HEAD: tuple[Rule, ...] = (
    (r"^sem_seg_head\.(?!pixel_decoder|predictor)", "sem_seg_head.pixel_decoder."),  # in files of the first version
    (r"^sem_seg_head\.pixel_decoder\.(transformer\.)?", "pixel_decoder."),
    (r"^(pixel_decoder)\.level_embed$", r"\1.level_encoding.weight"),
    (r"^(pixel_decoder)\.input_proj\.(\d)\.0\.", r"\1.input_convs.\2.conv."),
    (r"^(pixel_decoder)\.input_proj\.(\d)\.1\.", r"\1.input_convs.\2.gn."),
    (r"^(pixel_decoder)\.(adapter|layer)_1\.norm\.", r"\1.\2_1.gn."),
    (r"^(pixel_decoder)\.(adapter|layer)_1\.weight$", r"\1.\2_1.conv.weight"),
    (r"^(pixel_decoder)\.adapter_1\.", r"\1.lateral_convs.0."),
    (r"^(pixel_decoder)\.layer_1\.", r"\1.output_convs.0."),
    (r"^(pixel_decoder)\.mask_features\.", r"\1.mask_feature."),
    (r"^(pixel_decoder\..*)\.norm1\.", r"\1.norms.0."),
    (r"^(pixel_decoder\..*)\.norm2\.", r"\1.norms.1."),
    (r"^sem_seg_head\.predictor\.", ""),
    # The norms of a layer of ours stand in the order of its parts: cross-attention, self-attention, feed-forward.
    (r"^transformer_cross_attention_layers\.(\d+)\.norm\.", r"transformer_decoder.layers.\1.norms.0."),
    (r"^transformer_self_attention_layers\.(\d+)\.norm\.", r"transformer_decoder.layers.\1.norms.1."),
    (r"^transformer_ffn_layers\.(\d+)\.norm\.", r"transformer_decoder.layers.\1.norms.2."),
    (
        r"^transformer_cross_attention_layers\.(\d+)\.multihead_attn\.",
        r"transformer_decoder.layers.\1.cross_attn.attn.",
    ),
    (r"^transformer_self_attention_layers\.(\d+)\.self_attn\.", r"transformer_decoder.layers.\1.self_attn.attn."),
    (r"^transformer_ffn_layers\.(\d+)\.", r"transformer_decoder.layers.\1."),
    (r"^decoder_norm\.", "transformer_decoder.post_norm."),
    (r"^static_query\.", "query_feat."),  # in files of the first version
    (r"^input_proj\.", "decoder_input_projs."),
    (r"^class_embed\.", "cls_embed."),
    (r"^mask_embed\.layers\.(\d)\.", lambda found: f"mask_embed.{2 * int(found[1])}."),
    (r"\.linear1\.", ".ffn.layers.0.0."),
    (r"\.linear2\.", ".ffn.layers.1."),
)


class TransformersMask2Former(WeightFormat):
    """Hugging Face transformers' names, those in its files and those that its version 5 has in memory."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *TRANSFORMERS_PIXEL_DECODER,
        (r"^model\.transformer_module\.decoder\.layers\.", "transformer_decoder.layers."),
        (r"^(transformer_decoder\..*)\.(cross|self)_attn\.", r"\1.\2_attn.attn."),
        (r"^(transformer_decoder\..*)\.cross_attn_layer_norm\.", r"\1.norms.0."),
        (r"^(transformer_decoder\..*)\.self_attn_layer_norm\.", r"\1.norms.1."),
        (r"^(transformer_decoder\..*)\.final_layer_norm\.", r"\1.norms.2."),
        (r"^model\.transformer_module\.decoder\.layernorm\.", "transformer_decoder.post_norm."),
        (r"^.*\.mask_embedder\.(\d)\.0\.", lambda found: f"mask_embed.{2 * int(found[1])}."),
        (r"^class_predictor\.", "cls_embed."),
        (r"^model\.transformer_module\.queries_embedder\.", "query_embed."),
        (r"^model\.transformer_module\.queries_features\.", "query_feat."),
        (r"^model\.transformer_module\.level_embed\.", "level_embed."),
        (r"^model\.transformer_module\.input_projections\.", "decoder_input_projs."),
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return has_mask2former(module) and "model.transformer_module.queries_features.weight" in keys

    def convert(self, module: Any, weights: Weights) -> Weights:
        inner, rest = split(weights, TRANSFORMERS_BACKBONE)
        return backbone_weights(module, inner) | head_weights(join_in_proj(rename(rest, self.rules)))


class Detectron2Mask2Former(WeightFormat):
    """The authors' names, around Detectron2's ResNet or Swin."""

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        names = {f"sem_seg_head.predictor.{name}.weight" for name in ("query_feat", "static_query")}
        return has_mask2former(module) and not names.isdisjoint(keys)

    def convert(self, module: Any, weights: Weights) -> Weights:
        inner, rest = split(weights, "backbone.")
        return detectron2_backbone(module, inner) | head_weights(rename(rest, DETECTRON2_HEAD))


def has_mask2former(module: nn.Module) -> bool:
    """Whether the model has the head of Mask2Former, or one built on it."""
    return isinstance(getattr(module, "decode_head", None), Mask2FormerHead)


def head_weights(weights: Weights) -> Weights:
    """Return the weights of the head by the names of the whole model, without those of the losses."""
    return {f"decode_head.{key}": value for key, value in weights.items() if not key.startswith("criterion.")}


def detectron2_backbone(module: Any, weights: Weights) -> Weights:
    """Return the weights of a backbone in Detectron2 by our names."""
    converted = backbone_weights(module, weights)
    if "stem.conv1.weight" in weights:
        # Unlike Detectron2's own ResNets, those of these models take normalised RGB images.
        converted["backbone.conv1.weight"] = weights["stem.conv1.weight"]
    return converted
