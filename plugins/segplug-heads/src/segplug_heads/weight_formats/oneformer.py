"""OneFormer as Hugging Face transformers and its authors (Detectron2) publish it, around any backbone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from torch import nn

from segkernel.interfaces.model import WeightFormat
from segplug_heads.heads.oneformer_head import OneFormerHead
from segplug_heads.weight_formats.mask2former import (
    DETECTRON2_HEAD,
    TRANSFORMERS_BACKBONE,
    TRANSFORMERS_PIXEL_DECODER,
    detectron2_backbone,
)
from segplug_heads.weight_formats.renaming import Rule, Weights, backbone_weights, join_in_proj, rename, split

QUERY_DECODER: tuple[Rule, ...] = (
    (r"^(query_decoder\.layers\..*)\.self_attn\.", r"\1.self_attn.attn."),
    (r"^(query_decoder\.layers\..*)\.multihead_attn\.", r"\1.cross_attn.attn."),
    (r"^(query_decoder\.layers\..*)\.norm([123])\.", lambda found: f"{found[1]}.norms.{int(found[2]) - 1}."),
    (r"^query_decoder\.norm\.", "query_decoder.post_norm."),
    (r"^(query_decoder\.layers\..*)\.linear1\.", r"\1.ffn.layers.0.0."),
    (r"^(query_decoder\.layers\..*)\.linear2\.", r"\1.ffn.layers.1."),
)
TEXT_LAYER: tuple[Rule, ...] = (
    (r"^(text_encoder\.transformer\..*)\.(ln_|layer_norm)1\.", r"\1.norms.0."),
    (r"^(text_encoder\.transformer\..*)\.(ln_|layer_norm)2\.", r"\1.norms.1."),
    (r"^(text_encoder\.transformer\..*)\.(self_)?attn\.", r"\1.attentions.0.attn."),
    (r"^(text_encoder\.transformer\..*)\.mlp\.(c_fc|fc1)\.", r"\1.ffns.0.layers.0.0."),
    (r"^(text_encoder\.transformer\..*)\.mlp\.(c_proj|fc2)\.", r"\1.ffns.0.layers.1."),
    (r"^text_projector\.layers\.(\d)\.(0\.)?", lambda found: f"text_encoder.text_projector.{2 * int(found[1])}."),
    (r"^prompt_ctx\.", "text_encoder.prompt_ctx."),
    (r"^criterion\.(contrastive_)?logit_scale$", "loss_contrastive.logit_scale"),
)


class TransformersOneFormer(WeightFormat):
    """Hugging Face transformers' names, those in its files and those that its version 5 has in memory."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^model\.text_mapper\.", ""),
        (r"^text_encoder\.transformer\.layers\.", "text_encoder.transformer."),
        *TEXT_LAYER,
        *TRANSFORMERS_PIXEL_DECODER,
        (r"^model\.task_encoder\.task_mlp\.layers\.(\d)\.0\.", lambda found: f"task_mlp.{2 * int(found[1])}."),
        (r"^model\.transformer_module\.queries_embedder\.", "query_embed."),
        (r"^model\.transformer_module\.level_embed\.", "level_embed."),
        (r"^model\.transformer_module\.input_projections\.", "decoder_input_projs."),
        (r"^model\.transformer_module\.decoder\.", "transformer_decoder."),
        (r"^transformer_decoder\.query_transformer\.decoder\.", "query_decoder."),
        *QUERY_DECODER,
        (r"^transformer_decoder\.query_input_projection\.", "query_input_proj."),
        (r"^transformer_decoder\.class_embed\.", "cls_embed."),
        (r"^transformer_decoder\.mask_embed\.layers\.(\d)\.0\.", lambda found: f"mask_embed.{2 * int(found[1])}."),
        (r"^transformer_decoder\.decoder_norm\.", "transformer_decoder.post_norm."),
        (r"^(transformer_decoder\..*)\.cross_attn\.norm\.", r"\1.norms.0."),
        (r"^(transformer_decoder\..*)\.self_attn\.norm\.", r"\1.norms.1."),
        (r"^(transformer_decoder\..*)\.ffn\.norm\.", r"\1.norms.2."),
        (r"^(transformer_decoder\..*)\.cross_attn\.multihead_attn\.", r"\1.cross_attn.attn."),
        (r"^(transformer_decoder\..*)\.self_attn\.self_attn\.", r"\1.self_attn.attn."),
        (r"^(transformer_decoder\..*)\.ffn\.linear1\.", r"\1.ffn.layers.0.0."),
        (r"^(transformer_decoder\..*)\.ffn\.linear2\.", r"\1.ffn.layers.1."),
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return _has_oneformer(module) and "model.task_encoder.task_mlp.layers.0.0.weight" in keys

    def convert(self, module: Any, weights: Weights) -> Weights:
        inner, rest = split(weights, TRANSFORMERS_BACKBONE)
        return backbone_weights(module, inner) | _head_weights(module, join_in_proj(rename(rest, self.rules)))


class OfficialOneFormer(WeightFormat):
    """The authors' names, around Detectron2's ResNet, Swin or ConvNeXt."""

    rules: ClassVar[tuple[Rule, ...]] = (
        (r"^text_encoder\.transformer\.resblocks\.", "text_encoder.transformer."),
        *TEXT_LAYER,
        (r"^task_mlp\.layers\.(\d)\.", lambda found: f"task_mlp.{2 * int(found[1])}."),
        (r"^sem_seg_head\.predictor\.class_transformer\.decoder\.", "query_decoder."),
        (r"^sem_seg_head\.predictor\.class_input_proj\.", "query_input_proj."),
        *QUERY_DECODER,
        *DETECTRON2_HEAD,
    )

    def matches(self, module: nn.Module, keys: Collection[str]) -> bool:
        return _has_oneformer(module) and "task_mlp.layers.0.weight" in keys

    def convert(self, module: Any, weights: Weights) -> Weights:
        inner, rest = split(weights, "backbone.")
        return detectron2_backbone(module, inner) | _head_weights(module, rename(rest, self.rules))


def _has_oneformer(module: nn.Module) -> bool:
    return isinstance(getattr(module, "decode_head", None), OneFormerHead)


def _head_weights(module: Any, weights: Weights) -> Weights:
    """Return the head's weights by the names of the whole model, those for training only if the model is trained."""
    unused = (
        ("criterion.",) if module.decode_head.text_encoder else ("criterion.", "text_encoder.", "loss_contrastive.")
    )
    return {f"decode_head.{key}": value for key, value in weights.items() if not key.startswith(unused)}
