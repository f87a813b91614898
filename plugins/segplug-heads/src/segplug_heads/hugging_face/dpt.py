"""DPT for classes or depths, on its own vision transformer or on DINOv2.

Images of any size will do here; transformers takes square ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.depth_anything import dinov2
from segplug_heads.hugging_face.values import activation, only, unsupported

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": 384,
    "patch_size": 16,
    "num_channels": 3,
    "is_hybrid": False,
    "qkv_bias": True,
    "backbone_out_indices": [2, 5, 8, 11],
    "readout_type": "project",
    "neck_hidden_sizes": [96, 192, 384, 768],
    "fusion_hidden_size": 256,
    "head_in_index": -1,
    "use_batch_norm_in_fusion_residual": False,
    "use_bias_in_fusion_residual": None,
    "add_projection": False,
    "semantic_loss_ignore_index": 255,
    "semantic_classifier_dropout": 0.1,
    "backbone_config": None,
}
DEPTH = "DPTForDepthEstimation"


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``DPTConfig``."""
    config = DEFAULTS | dict(config)
    only(config, is_hybrid=False, head_in_index=-1, reassemble_factors=[4, 2, 1, 0.5])
    bias, has_norm = config["use_bias_in_fusion_residual"], config["use_batch_norm_in_fusion_residual"]
    if bias is not None and bias == has_norm:
        raise unsupported("use_bias_in_fusion_residual", bias, f"{not has_norm} is")
    if config["backbone_config"]:
        backbone = dinov2(config["backbone_config"]) | {"output_cls_token": True}
        width = backbone["arch"]["embed_dims"]
    else:
        backbone, width = _backbone(config), config["hidden_size"]
    if DEPTH in (config.get("architectures") or ()):
        return {"type": "DepthEstimator", "backbone": backbone, "decode_head": _depth_head(config, width)}
    head = _class_head(config, width)
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, "direct_resize": True}


def _backbone(config: Mapping[str, Any]) -> dict[str, Any]:
    width, ratio = config["hidden_size"], config["intermediate_size"] / config["hidden_size"]
    if ratio != int(ratio):
        raise unsupported("intermediate_size", config["intermediate_size"], f"multiples of {width} are")
    if len(config["backbone_out_indices"]) != 4:
        raise unsupported("backbone_out_indices", config["backbone_out_indices"], "four layers are needed")
    return {
        "type": "VisionTransformer",
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "in_channels": config["num_channels"],
        "embed_dims": width,
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": int(ratio),
        "out_indices": config["backbone_out_indices"],
        "qkv_bias": config["qkv_bias"],
        "drop_rate": config["hidden_dropout_prob"],
        "attn_drop_rate": config["attention_probs_dropout_prob"],
        "output_cls_token": True,
        "norm_cfg": {"type": "LN", "eps": config["layer_norm_eps"]},
        "act_cfg": activation(config),
        "patch_bias": True,
        "interpolate_mode": "bilinear",
    }


def _class_head(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    return {
        "type": "DPTHead",
        "in_channels": [width] * 4,
        "in_index": [0, 1, 2, 3],
        "input_transform": "multiple_select",
        "channels": config["fusion_hidden_size"],
        "embed_dims": width,
        "post_process_channels": config["neck_hidden_sizes"],
        "readout_type": config["readout_type"],
        "residual_bias": not config["use_batch_norm_in_fusion_residual"],
        "upsample_logits": True,
        "dropout_ratio": config["semantic_classifier_dropout"],
        "num_classes": "${data.num_classes}",
        "norm_cfg": {"type": "SyncBN"},
        "ignore_index": config["semantic_loss_ignore_index"],
    }


def _depth_head(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    has_norm = config["use_batch_norm_in_fusion_residual"]
    return {
        "type": "DPTDepthHead",
        "in_channels": width,
        "channels": config["fusion_hidden_size"],
        "post_process_channels": config["neck_hidden_sizes"],
        "readout_type": config["readout_type"],
        "projection": config["add_projection"],
        "residual_norm_cfg": {"type": "SyncBN"} if has_norm else None,
    }
