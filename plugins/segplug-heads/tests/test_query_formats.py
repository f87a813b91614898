"""Weights of mask transformers by the names of their authors."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from segkernel import build
from segkernel.interfaces.model import Segmentor
from segkernel.weights import convert
from segplug_heads.heads.eomt_head import EoMTHead
from segplug_heads.heads.mask2former_head import Mask2FormerHead
from segplug_heads.heads.oneformer_head import OneFormerHead, QueryTextContrast
from segplug_heads.segmentors.eomt import EoMT, ToyViT

AUTHORS = (
    (r"decode_head\.text_encoder\.(prompt_ctx|text_projector)", r"\1"),
    (r"text_projector\.(\d)", lambda found: f"text_projector.layers.{int(found[1]) // 2}"),
    (r"decode_head\.text_encoder\.transformer\.", "text_encoder.transformer.resblocks."),
    (r"decode_head\.text_encoder\.", "text_encoder."),
    (r"(resblocks\.\d)\.norms\.([01])", lambda found: f"{found[1]}.ln_{int(found[2]) + 1}"),
    (r"(resblocks\.\d)\.attentions\.0\.attn", r"\1.attn"),
    (r"(resblocks\.\d)\.ffns\.0\.layers\.0\.0", r"\1.mlp.c_fc"),
    (r"(resblocks\.\d)\.ffns\.0\.layers\.1", r"\1.mlp.c_proj"),
    (r"decode_head\.loss_contrastive\.logit_scale", "criterion.logit_scale"),
    (r"decode_head\.task_mlp\.(\d)", lambda found: f"task_mlp.layers.{int(found[1]) // 2}"),
    (r"decode_head\.query_input_proj", "decode_head.class_input_proj"),
    (r"decode_head\.query_decoder\.post_norm", "decode_head.class_transformer.decoder.norm"),
    (r"decode_head\.query_decoder\.", "decode_head.class_transformer.decoder."),
    (r"(class_transformer.*)\.cross_attn\.attn", r"\1.multihead_attn"),
    (r"(class_transformer.*)\.norms\.([012])", lambda found: f"{found[1]}.norm{int(found[2]) + 1}"),
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


def model_with(head: type[Mask2FormerHead], **more: Any) -> Segmentor:
    arguments = {**head.conformance, "type": head.__name__, "in_channels": [8, 16, 16], "in_index": [1, 2, 3]} | more
    backbone = {"type": "segkernel.testing.toys:ToyBackbone"}
    torch.manual_seed(0)
    return build("segmentors", {"type": "EncoderDecoder", "backbone": backbone, "decode_head": arguments})


def by_names_of_the_authors(model: Segmentor) -> dict[str, torch.Tensor]:
    for parameter in model.parameters():  # none equals another
        torch.nn.init.normal_(parameter)
    named = {}
    for key, value in model.state_dict().items():
        for pattern, replacement in AUTHORS:
            key = re.sub(pattern, replacement, key) if not key.startswith("backbone.") else key
        named[key] = value
    return named


@pytest.mark.parametrize(
    ("head", "name"), [(Mask2FormerHead, "Detectron2Mask2Former"), (OneFormerHead, "OfficialOneFormer")]
)
def test_weights_of_the_authors(head: type[Mask2FormerHead], name: str) -> None:
    model = model_with(head)
    theirs = by_names_of_the_authors(model) | {"criterion.empty_weight": torch.ones(5)}
    assert "sem_seg_head.predictor.transformer_ffn_layers.1.linear1.weight" in theirs
    found = convert(model, theirs)
    assert (
        found.format
        == {"Mask2FormerHead": "Detectron2Mask2Former", "OneFormerHead": "OfficialOneFormer"}[head.__name__]
    )
    own = model.state_dict()
    assert found.weights.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in found.weights.items())


@pytest.mark.parametrize("prefix", ["", "network."])
def test_eomt_of_its_authors(prefix: str) -> None:
    torch.manual_seed(0)
    model = EoMT(ToyViT(), EoMTHead(16, num_classes=4, num_queries=6, num_blocks=2))
    names = {"query_feat.": "q.", "cls_embed.": "class_head.", "mask_embed.": "mask_head."}
    names["backbone."] = "encoder.backbone."
    theirs = {"encoder.pixel_mean": torch.zeros(1, 3, 1, 1)}
    for key, value in model.state_dict().items():
        key = key.removeprefix("decode_head.")
        for ours, authors in names.items():
            key = authors + key.removeprefix(ours) if key.startswith(ours) else key
        theirs[key] = value
    assert {"q.weight", "upscale.0.conv1.weight", "attn_mask_probs", "encoder.backbone.cls_token"} <= theirs.keys()
    found = convert(model, {prefix + key: value for key, value in theirs.items()})
    assert found.format == "OfficialEoMT"
    assert found.weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in found.weights.items())


def test_a_model_for_inference_leaves_the_text_encoder_out() -> None:
    theirs = by_names_of_the_authors(model_with(OneFormerHead))
    model = model_with(OneFormerHead, text_encoder=None)
    model.load_state_dict(convert(model, theirs).weights, strict=True)


def test_the_contrastive_loss_tells_images_from_each_other() -> None:
    torch.manual_seed(0)
    queries = torch.randn(3, 4, 8)
    contrast = QueryTextContrast(temperature=0.07, loss_weight=0.5)
    right, wrong = contrast(queries, queries), contrast(queries, queries.roll(1, 0))
    assert right < 0.01 < 5 < wrong
    similarity = torch.nn.functional.cosine_similarity(queries.flatten(1)[:, None], queries.flatten(1)[None], dim=2)
    assert torch.allclose(right, -(similarity / 0.07).log_softmax(1).diagonal().mean())  # the same both ways, times 0.5


def test_texts_name_the_classes_of_each_image() -> None:
    model = model_with(OneFormerHead)
    encoder = model.decode_head.text_encoder.eval()
    empty, cat, dog_and_cat = encoder([torch.tensor([]), torch.tensor([0]), torch.tensor([1, 0])])
    assert empty.shape == (6, 16)
    assert torch.equal(empty[4:], encoder.prompt_ctx.weight)  # context tokens, the same for all images
    assert torch.allclose(empty[0], empty[3], atol=1e-6)  # padding
    assert torch.allclose(cat[0], dog_and_cat[1], atol=1e-6)
    assert not torch.allclose(cat[0], dog_and_cat[0], atol=1e-3)
    assert torch.allclose(cat[1:4], empty[1:4], atol=1e-6)


def test_the_task_changes_the_queries() -> None:
    outputs = []
    for task in ("semantic", "panoptic"):
        model = model_with(OneFormerHead, task=task).eval()
        outputs.append(model(torch.ones(1, 3, 32, 32)))
    assert not torch.allclose(*outputs)
