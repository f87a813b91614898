"""Light models against their authors' code: TopFormer, SeaFormer, SCTNet and AFFormer."""

from __future__ import annotations

from typing import Any

import newmodels
import pytest

from segkernel import build

HEAD = {"num_classes": 19}
TOPFORMER = {"type": "TopFormerHead", "in_index": [0, 1, 2], **HEAD}
SEAFORMER = {"type": "SeaFormerHead", "in_index": [0, 1, 2], "is_dw": True, **HEAD}
AFFORMER = {
    "type": "AFFormerHead",
    "in_index": 3,
    "in_channels": 216,
    "channels": 256,
    "norm_cfg": {"type": "GN", "num_groups": 32},
    **HEAD,
}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "afformer_tiny": ({"type": "AFFormer", "arch": "tiny"}, AFFORMER),
    "afformer_base": ({"type": "AFFormer", "arch": "base"}, AFFORMER),
    "sctnet_s": (
        {"type": "SCTNet"},
        {"type": "SCTHead", "in_index": 0, "in_channels": 128, "channels": 128, "dropout_ratio": 0.0, **HEAD},
    ),
    "topformer_tiny": (
        {"type": "TopFormer", "arch": "tiny"},
        {**TOPFORMER, "in_channels": [128] * 3, "channels": 128, "is_dw": True},
    ),
    "topformer_base": (
        {"type": "TopFormer", "arch": "base"},
        {**TOPFORMER, "in_channels": [256] * 3, "channels": 256},
    ),
    "seaformer_tiny": (
        {"type": "SeaFormer", "arch": "tiny"},
        {**SEAFORMER, "in_channels": [32, 128, 160], "embed_dims": [64, 96], "channels": 96},
    ),
    "seaformer_small": (
        {"type": "SeaFormer", "arch": "small"},
        {**SEAFORMER, "in_channels": [48, 160, 192], "embed_dims": [96, 128], "channels": 128},
    ),
    "seaformer_base": (
        {"type": "SeaFormer", "arch": "base"},
        {**SEAFORMER, "in_channels": [64, 192, 256], "embed_dims": [128, 160], "channels": 160},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_equals_the_reference(name: str) -> None:
    case = newmodels.load(name)
    backbone, head = MODELS[name]
    norm = {"norm_cfg": {"type": "BN"}}
    config = {"type": "EncoderDecoder", "backbone": norm | backbone, "decode_head": norm | head}
    model = case.load_into(build("segmentors", config))
    assert case.failures({"logits": model(case.images)}, model=model) == []
