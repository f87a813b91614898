"""EoMT on DINOv2, for semantic segmentation: the image is predicted in square windows of the shorter edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.mask2former import losses
from segplug_heads.hugging_face.values import activation, only, unsupported

DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 640,
    "patch_size": 16,
    "num_channels": 3,
    "mlp_ratio": 4,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "num_upscale_blocks": 2,
    "use_swiglu_ffn": False,
    "num_blocks": 4,
    "num_queries": 200,
    "num_register_tokens": 4,
}


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of an ``EomtConfig``."""
    config = DEFAULTS | dict(config)
    hidden = int(config["hidden_size"] * config["mlp_ratio"])
    gated = config["use_swiglu_ffn"]
    if gated:  # three matrices instead of two, with two thirds of the width, rounded up to a multiple of 8
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    encoder = {"type": "DINOv2", "img_size": config["image_size"], **vision_transformer(config, hidden, gated)}
    return eomt(config, encoder)


def vision_transformer(config: Mapping[str, Any], hidden: int, gated: bool) -> dict[str, Any]:
    """Return the arguments that `DINOv2` and `DINOv3` share.

    Args:
        config: The values that both kinds of EoMT name alike.
        hidden: Width of the feed-forward networks.
        gated: Whether these are gated (SwiGLU).
    """
    only(config, hidden_dropout_prob=0.0, attention_dropout=0.0)
    return {
        "arch": {
            "embed_dims": config["hidden_size"],
            "num_layers": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "feedforward_channels": hidden,
            "swiglu": gated,
        },
        "patch_size": config["patch_size"],
        "in_channels": config["num_channels"],
        "num_register_tokens": config["num_register_tokens"],
        "init_values": config["layerscale_value"],
        "drop_path_rate": config["drop_path_rate"],
        "norm_cfg": {"type": "LN", "eps": config["layer_norm_eps"]},
        "act_cfg": activation(config),
    }


def eomt(config: Mapping[str, Any], encoder: dict[str, Any]) -> dict[str, Any]:
    """Return the model on an encoder."""
    size = config["image_size"]
    if not isinstance(size, int) and len(set(size)) > 1:
        raise unsupported("image_size", size, "windows must be squares")
    side = size if isinstance(size, int) else size[0]
    head = {
        "type": "EoMTHead",
        "feat_channels": config["hidden_size"],
        "num_classes": "${data.num_classes}",
        "num_queries": config["num_queries"],
        "num_blocks": config["num_blocks"],
        "num_upscale": config["num_upscale_blocks"],
        "act_cfg": activation(config),
        **losses(config),
    }
    windows = {"mode": "slide", "crop_size": [side, side], "stride": [side, side]}
    return {"type": "EoMT", "backbone": encoder, "decode_head": head, "test_cfg": windows}
