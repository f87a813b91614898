"""MobileViT with DeepLabV3. Its image processor turns images to BGR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.values import activation, only

COMMON: dict[str, Any] = {
    "num_channels": 3,
    "patch_size": 2,
    "conv_kernel_size": 3,
    "output_stride": 32,
    "classifier_dropout_prob": 0.1,
    "layer_norm_eps": 1e-5,
    "atrous_rates": [6, 12, 18],
    "semantic_loss_ignore_index": 255,
}
"""What MobileViT and MobileViTV2 share."""
DEFAULTS: dict[str, Any] = COMMON | {
    "hidden_sizes": [144, 192, 240],
    "neck_hidden_sizes": [16, 32, 64, 96, 128, 160, 640],
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "expand_ratio": 4.0,
    "hidden_act": "silu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "qkv_bias": True,
    "aspp_out_channels": 256,
}
LAST_STAGE = 4


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``MobileViTConfig``."""
    config = DEFAULTS | dict(config)
    only(config, qkv_bias=True)
    channels = config["neck_hidden_sizes"][: LAST_STAGE + 2]
    backbone = {
        "type": "MobileViT",
        "arch": {
            "channels": channels,
            "dims": config["hidden_sizes"],
            "expand_ratio": config["expand_ratio"],
        },
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "drop_rate": config["hidden_dropout_prob"],
        "attn_drop_rate": config["attention_probs_dropout_prob"],
    }
    return deeplab(config, backbone, channels[-1])


def deeplab(config: Mapping[str, Any], backbone: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Return the model around a backbone whose last map has ``channels``."""
    only(config, layer_norm_eps=1e-5)
    common = {
        "in_channels": config["num_channels"],
        "output_stride": config["output_stride"],
        "out_indices": [LAST_STAGE],
        "patch_size": config["patch_size"],
        "kernel_size": config["conv_kernel_size"],
        "act_cfg": activation(config),
    }
    return {
        "type": "EncoderDecoder",
        "backbone": {**backbone, **common},
        "decode_head": {
            "type": "ASPPHead",
            "in_channels": channels,
            "in_index": 0,
            "channels": config["aspp_out_channels"],
            "dilations": [1, *config["atrous_rates"]],
            "fusion_kernel": 1,
            "dropout_ratio": config["classifier_dropout_prob"],
            "num_classes": "${data.num_classes}",
            "norm_cfg": {"type": "SyncBN"},
            "ignore_index": config["semantic_loss_ignore_index"],
        },
        "direct_resize": True,
    }
