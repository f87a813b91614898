"""EoMT on DINOv3, for semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.eomt import DEFAULTS as EOMT
from segplug_heads.hugging_face.eomt import eomt, vision_transformer
from segplug_heads.hugging_face.values import only, unsupported

DEFAULTS: dict[str, Any] = EOMT | {
    "intermediate_size": 4096,
    "use_gated_mlp": False,
    "query_bias": True,
    "value_bias": True,
}
THETA = 100.0


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of an ``EomtDinov3Config``."""
    config = DEFAULTS | dict(config)
    only(config, key_bias=False, proj_bias=True, mlp_bias=True)
    if config["query_bias"] != config["value_bias"]:
        raise unsupported("value_bias", config["value_bias"], "only the same as query_bias is")
    if config["use_gated_mlp"] and config["hidden_act"] not in ("silu", "swish"):
        raise unsupported("hidden_act", config["hidden_act"], "with use_gated_mlp silu is")
    encoder = {
        "type": "DINOv3",
        "qv_bias": config["query_bias"],
        "rope_theta": (config.get("rope_parameters") or {}).get("rope_theta", config.get("rope_theta", THETA)),
        **vision_transformer(config, config["intermediate_size"], config["use_gated_mlp"]),
    }
    return eomt(config, encoder)
