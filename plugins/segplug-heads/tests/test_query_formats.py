"""Weights of mask transformers by the names of their authors."""

from __future__ import annotations

import re
from typing import Any

import torch

from segkernel import build
from segkernel.interfaces.model import Segmentor
from segkernel.weights import convert
from segplug_heads.heads.mask2former_head import Mask2FormerHead

AUTHORS = (
    (r"decode_head\.pixel_decoder\.encoder\.", "sem_seg_head.pixel_decoder.transformer.encoder."),
    (r"decode_head\.pixel_decoder\.level_encoding\.weight", "sem_seg_head.pixel_decoder.transformer.level_embed"),
    (r"decode_head\.pixel_decoder\.input_convs\.(\d)\.conv", r"sem_seg_head.pixel_decoder.input_proj.\1.0"),
    (r"decode_head\.pixel_decoder\.input_convs\.(\d)\.gn", r"sem_seg_head.pixel_decoder.input_proj.\1.1"),
    (r"decode_head\.pixel_decoder\.lateral_convs\.0\.conv", "sem_seg_head.pixel_decoder.adapter_1"),
    (r"decode_head\.pixel_decoder\.lateral_convs\.0\.gn", "sem_seg_head.pixel_decoder.adapter_1.norm"),
    (r"decode_head\.pixel_decoder\.output_convs\.0\.conv", "sem_seg_head.pixel_decoder.layer_1"),
    (r"decode_head\.pixel_decoder\.output_convs\.0\.gn", "sem_seg_head.pixel_decoder.layer_1.norm"),
    (r"decode_head\.pixel_decoder\.mask_feature\.", "sem_seg_head.pixel_decoder.mask_features."),
    (r"(pixel_decoder.*)norms\.0", r"\1norm1"),
    (r"(pixel_decoder.*)norms\.1", r"\1norm2"),
    (r"ffn\.layers\.0\.0", "linear1"),
    (r"ffn\.layers\.1", "linear2"),
    (r"decode_head\.", "sem_seg_head.predictor."),
    (r"transformer_decoder\.layers\.(\d)\.(cross_attn\.attn|norms\.0)", r"transformer_cross_attention_layers.\1.\2"),
    (r"transformer_decoder\.layers\.(\d)\.(self_attn\.attn|norms\.1)", r"transformer_self_attention_layers.\1.\2"),
    (r"transformer_decoder\.layers\.(\d)\.(linear|norms\.2)", r"transformer_ffn_layers.\1.\2"),
    (r"_layers\.(\d)\.norms\.\d", r"_layers.\1.norm"),
    (r"cross_attn\.attn", "multihead_attn"),
    (r"self_attn\.attn", "self_attn"),
    (r"transformer_decoder\.post_norm", "decoder_norm"),
    (r"cls_embed", "class_embed"),
    (r"mask_embed\.(\d)", lambda found: f"mask_embed.layers.{int(found[1]) // 2}"),
)
"""From our names to those of Mask2Former's authors, as the modules of their repository are called."""


def mask2former(backbone: dict[str, Any], widths: list[int]) -> Segmentor:
    conformance = Mask2FormerHead.conformance
    head = {**conformance, "type": "Mask2FormerHead", "in_channels": widths}
    return build("segmentors", {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head})


def by_names_of_the_authors(model: Segmentor) -> dict[str, torch.Tensor]:
    for parameter in model.parameters():  # none equals another
        torch.nn.init.normal_(parameter)
    named = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in AUTHORS:
            key = re.sub(pattern, replacement, key) if not key.startswith("backbone.") else key
        named[key] = value
    return named


def test_mask2former_of_its_authors() -> None:
    torch.manual_seed(0)
    model = mask2former({"type": "segkernel.testing.toys:ToyBackbone"}, [8, 16, 16])
    theirs = by_names_of_the_authors(model) | {"criterion.empty_weight": torch.ones(5)}
    assert "sem_seg_head.predictor.transformer_ffn_layers.1.linear1.weight" in theirs
    found = convert(model, theirs)
    assert found.format == "Detectron2Mask2Former"
    own = model.state_dict()
    assert found.weights.keys() == own.keys()
    assert all(
        found.weights[key] is theirs[name] for key, name in zip(own, by_names_of_the_authors(model), strict=True)
    )
