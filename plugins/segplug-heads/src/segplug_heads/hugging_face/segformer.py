"""SegFormer as NVIDIA publishes it: linear layers alone project each map, as in the paper.

The norms have an epsilon of 1e-5, whatever ``layer_norm_eps`` says: transformers does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.values import activation, same, unsupported

DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "num_encoder_blocks": 4,
    "depths": [2, 2, 2, 2],
    "sr_ratios": [8, 4, 2, 1],
    "hidden_sizes": [32, 64, 160, 256],
    "patch_sizes": [7, 3, 3, 3],
    "strides": [4, 2, 2, 2],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [4, 4, 4, 4],
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "drop_path_rate": 0.1,
    "decoder_hidden_size": 256,
    "semantic_loss_ignore_index": 255,
}


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``SegformerConfig``."""
    config = DEFAULTS | dict(config)
    widths, heads = config["hidden_sizes"], config["num_attention_heads"]
    if any(width * heads[0] != widths[0] * count for width, count in zip(widths, heads, strict=True)):
        raise unsupported("hidden_sizes", widths, "channels per attention head must be equal in all stages")
    stages = range(config["num_encoder_blocks"])
    return {
        "type": "EncoderDecoder",
        "backbone": {
            "type": "MixVisionTransformer",
            "in_channels": config["num_channels"],
            "embed_dims": widths[0] // heads[0],
            "num_stages": len(stages),
            "num_layers": config["depths"],
            "num_heads": heads,
            "patch_sizes": config["patch_sizes"],
            "strides": config["strides"],
            "sr_ratios": config["sr_ratios"],
            "out_indices": list(stages),
            "mlp_ratio": same(config, "mlp_ratios"),
            "drop_rate": config["hidden_dropout_prob"],
            "attn_drop_rate": config["attention_probs_dropout_prob"],
            "drop_path_rate": config["drop_path_rate"],
            "act_cfg": activation(config),
            "norm_cfg": {"type": "LN", "eps": 1e-5},
        },
        "decode_head": {
            "type": "SegformerHead",
            "linear_projection": True,
            "in_channels": widths,
            "in_index": list(stages),
            "channels": config["decoder_hidden_size"],
            "dropout_ratio": config["classifier_dropout_prob"],
            "num_classes": "${data.num_classes}",
            "norm_cfg": {"type": "SyncBN"},
            "ignore_index": config["semantic_loss_ignore_index"],
        },
        "direct_resize": True,
    }
