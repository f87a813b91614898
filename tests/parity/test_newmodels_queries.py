"""Mask transformers compared with the reference: weights of its layouts, outputs, and losses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import golden_weights
import newmodels
import numpy as np
import pytest
import torch
from torch import Tensor

from segkernel import build
from segkernel.interfaces.model import Segmentor
from segkernel.weights import convert
from segplug_heads.heads.mask_queries import semantic_inference

OUTPUTS = ("class_queries_logits", "masks_queries_logits")


def swin(config: dict[str, Any]) -> dict[str, Any]:
    backbone = config["backbone_config"]
    return {
        "type": "SwinTransformer",
        "embed_dims": backbone["embed_dim"],
        "depths": backbone["depths"],
        "num_heads": backbone["num_heads"],
        "window_size": backbone["window_size"],
    }


def oneformer(config: dict[str, Any]) -> Segmentor:
    widths = [config["backbone_config"]["embed_dim"] * 2**i for i in range(4)]
    head = {
        "type": "OneFormerHead",
        "in_channels": widths,
        "feat_channels": config["hidden_dim"],
        "out_channels": config["mask_dim"],
        "num_classes": config["num_labels"],
        "num_queries": config["num_queries"],
        "transformer_decoder": {
            "num_layers": config["decoder_layers"] - 1,
            "layer_cfg": {"ffn_cfg": {"feedforward_channels": config["dim_feedforward"]}},
        },
        "query_decoder": {
            "num_layers": config["query_dec_layers"],
            "layer_cfg": {"ffn_cfg": {"feedforward_channels": config["dim_feedforward"]}},
        },
    }
    model = build("segmentors", {"type": "EncoderDecoder", "backbone": swin(config), "decode_head": head})
    model.decode_head.task_tokens = torch.from_numpy(np.random.RandomState(5).randint(0, 49408, (2, 77))).float()
    return model


def mask2former(config: dict[str, Any]) -> Segmentor:
    widths = [config["backbone_config"]["embed_dim"] * 2**i for i in range(4)]
    head = {
        "type": "Mask2FormerHead",
        "in_channels": widths,
        "feat_channels": config["hidden_dim"],
        "out_channels": config["mask_feature_size"],
        "num_classes": config["num_labels"],
        "num_queries": config["num_queries"],
        "transformer_decoder": {
            "num_layers": config["decoder_layers"] - 1,
            "layer_cfg": {"ffn_cfg": {"feedforward_channels": config["dim_feedforward"]}},
        },
    }
    return build("segmentors", {"type": "EncoderDecoder", "backbone": swin(config), "decode_head": head})


MODELS = {"mask2former_swin_tiny_hf": mask2former, "oneformer_swin_tiny_hf": oneformer}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_equal_the_reference(name: str) -> None:
    case = newmodels.load(name)
    model = case.load_into(MODELS[name](case.facts["build"]["config"]))
    class_logits, mask_logits = model.decode_head.last_queries(model.extract_feat(case.images))
    scores = semantic_inference(class_logits, mask_logits, case.images.shape[2:])
    outputs = dict(zip(OUTPUTS, (class_logits, mask_logits), strict=True))
    assert case.failures(outputs, scores, model) == []
    assert same(convert(model, case.file()).weights, convert(model, case.weights).weights)


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


LOSSES = {case["case"]: case for case in json.loads((newmodels.PACKED / "query_losses.json").read_text())["cases"]}


@pytest.mark.parametrize("name", [name for name in LOSSES if name in MODELS])
def test_losses_equal_the_reference(name: str) -> None:
    case = newmodels.load(name)
    model = case.load_into(MODELS[name](case.facts["build"]["config"]))
    labels = golden_weights.labels(case.facts["build"]["config"]["num_labels"], 2, *case.images.shape[2:])
    torch.manual_seed(0)
    total = torch.stack([*model.loss(case.images, labels).values()]).sum()
    expected = LOSSES[name]
    # The points at which masks are compared are drawn, and in another order than the reference's.
    assert float(total.detach()) == pytest.approx(expected["loss_total_by_seed"][0], rel=1e-2)
    gradients = torch.autograd.grad(total, [*model.parameters()], allow_unused=True)
    norm = sum(float(each.double().square().sum()) for each in gradients if each is not None) ** 0.5
    assert norm == pytest.approx(expected["grad_norm_total_seed0"], rel=3e-2)
