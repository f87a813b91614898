"""MobileNetV2 with a small DeepLabV3 head, as Google publishes it: padding as TensorFlow computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.values import activation, divisible, only, unsupported

DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "depth_multiplier": 1.0,
    "depth_divisible_by": 8,
    "min_depth": 8,
    "expand_ratio": 6.0,
    "output_stride": 32,
    "first_layer_is_expansion": True,
    "hidden_act": "relu6",
    "tf_padding": True,
    "classifier_dropout_prob": 0.8,
    "layer_norm_eps": 0.001,
    "semantic_loss_ignore_index": 255,
}
STRIDES = {
    8: ([1, 2, 2, 1, 1, 1, 1], [1, 1, 1, 2, 2, 4, 4]),
    16: ([1, 2, 2, 2, 1, 1, 1], [1, 1, 1, 1, 1, 2, 2]),
    32: ([1, 2, 2, 2, 1, 2, 1], [1, 1, 1, 1, 1, 1, 1]),
}
"""Strides and dilations of the stages by ``output_stride``."""
CHANNELS, HEAD_CHANNELS = 320, 256


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``MobileNetV2Config``."""
    config = DEFAULTS | dict(config)
    only(config, depth_divisible_by=8, min_depth=8, expand_ratio=6.0, first_layer_is_expansion=True)
    if config["output_stride"] not in STRIDES:
        raise unsupported("output_stride", config["output_stride"], "8, 16 and 32 are")
    strides, dilations = STRIDES[config["output_stride"]]
    return {
        "type": "EncoderDecoder",
        "backbone": {
            "type": "MobileNetV2",
            "in_channels": config["num_channels"],
            "widen_factor": config["depth_multiplier"],
            "strides": strides,
            "dilations": dilations,
            "dilate_all_blocks": True,
            "out_indices": [6],
            "conv_cfg": {"type": "Conv2dAdaptivePadding"} if config["tf_padding"] else None,
            "norm_cfg": {"type": "BN", "eps": config["layer_norm_eps"]},
            "act_cfg": activation(config),
        },
        "decode_head": {
            "type": "ASPPHead",
            "in_channels": divisible(CHANNELS * config["depth_multiplier"], 8),
            "in_index": 0,
            "channels": HEAD_CHANNELS,
            "dilations": [1],
            "fusion_kernel": 1,
            "dropout_ratio": config["classifier_dropout_prob"],
            "num_classes": "${data.num_classes}",
            "norm_cfg": {"type": "SyncBN"},
            "ignore_index": config["semantic_loss_ignore_index"],
        },
        "direct_resize": True,
    }
