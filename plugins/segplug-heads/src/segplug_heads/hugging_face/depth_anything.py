"""Depth Anything, both versions: DINOv2 and the depth head of DPT, in whole patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.values import activation, only, unsupported

DEFAULTS: dict[str, Any] = {
    "reassemble_hidden_size": 384,
    "neck_hidden_sizes": [48, 96, 192, 384],
    "fusion_hidden_size": 64,
    "head_in_index": -1,
    "head_hidden_size": 32,
    "depth_estimation_type": "relative",
    "max_depth": None,
}
DINOV2: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_swiglu_ffn": False,
    "apply_layernorm": True,
}
ACTIVATIONS = {"relative": "relu", "metric": "sigmoid"}
"""Of the depths, by ``depth_estimation_type``."""


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``DepthAnythingConfig``."""
    config = DEFAULTS | dict(config)
    only(config, head_in_index=-1, reassemble_factors=[4, 2, 1, 0.5])
    kind = config["depth_estimation_type"]
    if kind not in ACTIVATIONS:
        raise unsupported("depth_estimation_type", kind, f"supported: {', '.join(ACTIVATIONS)}")
    backbone = dinov2(config.get("backbone_config") or {})
    return {
        "type": "DepthEstimator",
        "backbone": backbone,
        "decode_head": {
            "type": "DPTDepthHead",
            "in_channels": config["reassemble_hidden_size"],
            "channels": config["fusion_hidden_size"],
            "post_process_channels": config["neck_hidden_sizes"],
            "readout_type": "ignore",
            "head_channels": config["head_hidden_size"],
            "patch_size": backbone["patch_size"],
            "whole_patches": True,
            "activation": ACTIVATIONS[kind],
            "max_depth": config["max_depth"] or 1.0,
        },
    }


def dinov2(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone of a ``Dinov2Config``, whose features are named ``stage1`` and so on, one for each layer.

    Raises:
        ConfigError: It is another model, or has not four features.
    """
    if config.get("model_type", "dinov2") != "dinov2":
        raise unsupported("backbone_config.model_type", config["model_type"], "supported: dinov2")
    config = DINOV2 | dict(config)
    only(config, qkv_bias=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    names = config.get("out_features") or [f"stage{index}" for index in config.get("out_indices") or ()]
    if len(names) != 4 or "stem" in names:
        raise unsupported("backbone_config.out_features", names, "four layers are needed")
    hidden, gated = int(config["hidden_size"] * config["mlp_ratio"]), config["use_swiglu_ffn"]
    if gated:  # three matrices instead of two, with two thirds of the width, rounded up to a multiple of 8
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    return {
        "type": "DINOv2",
        "arch": {
            "embed_dims": config["hidden_size"],
            "num_layers": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "feedforward_channels": hidden,
            "swiglu": gated,
        },
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "in_channels": config["num_channels"],
        "out_indices": [int(str(name).removeprefix("stage")) - 1 for name in names],
        "final_norm": config["apply_layernorm"],
        "drop_path_rate": config["drop_path_rate"],
        "init_values": config["layerscale_value"],
        "norm_cfg": {"type": "LN", "eps": config["layer_norm_eps"]},
        "act_cfg": activation(config),
    }
