"""MobileViTV2 with DeepLabV3. Its image processor turns images to BGR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.mobilevit import COMMON, deeplab
from segplug_heads.hugging_face.values import divisible, only

DEFAULTS: dict[str, Any] = COMMON | {
    "expand_ratio": 2.0,
    "hidden_act": "swish",
    "aspp_out_channels": 512,
    "n_attn_blocks": [2, 4, 3],
    "base_attn_unit_dims": [128, 192, 256],
    "width_multiplier": 1.0,
    "ffn_multiplier": 2,
    "attn_dropout": 0.0,
    "ffn_dropout": 0.0,
}
LAST_WIDTH = 512


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``MobileViTV2Config``."""
    config = DEFAULTS | dict(config)
    only(config, expand_ratio=2.0)
    backbone = {
        "type": "MobileViTV2",
        "width_multiplier": config["width_multiplier"],
        "depths": config["n_attn_blocks"],
        "dims": config["base_attn_unit_dims"],
        "ffn_multiplier": config["ffn_multiplier"],
        "drop_rate": config["ffn_dropout"],
        "attn_drop_rate": config["attn_dropout"],
    }
    return deeplab(config, backbone, divisible(LAST_WIDTH * config["width_multiplier"], 8))
