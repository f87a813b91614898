"""BEiT with a feature pyramid and UPerNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.upernet import upernet_heads
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
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
    "layer_scale_init_value": 0.1,
    "drop_path_rate": 0.1,
    "out_indices": [3, 5, 7, 11],
    "pool_scales": [1, 2, 3, 6],
    "use_auxiliary_head": True,
    "auxiliary_loss_weight": 0.4,
    "auxiliary_channels": 256,
    "auxiliary_num_convs": 1,
    "auxiliary_concat_input": False,
    "semantic_loss_ignore_index": 255,
}


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``BeitConfig``.

    transformers takes entry i - 1 of a list that begins with the embedded patches: map i is the output of layer i - 2.
    """
    config = DEFAULTS | dict(config)
    only(
        config,
        use_relative_position_bias=True,
        use_absolute_position_embeddings=False,
        use_shared_relative_position_bias=False,
        hidden_dropout_prob=0.0,
    )
    layers = [index - 2 for index in config["out_indices"]]
    if len(layers) != 4 or min(layers) < 0:
        raise unsupported("out_indices", config["out_indices"], "four numbers of at least 2 are needed")
    width, ratio = config["hidden_size"], config["intermediate_size"] / config["hidden_size"]
    if ratio != int(ratio):
        raise unsupported("intermediate_size", config["intermediate_size"], f"multiples of {width} are")
    return {
        "type": "EncoderDecoder",
        "backbone": {
            "type": "BEiT",
            "img_size": config["image_size"],
            "patch_size": config["patch_size"],
            "in_channels": config["num_channels"],
            "embed_dims": width,
            "num_layers": config["num_hidden_layers"],
            "num_heads": config["num_attention_heads"],
            "mlp_ratio": int(ratio),
            "out_indices": layers,
            "attn_drop_rate": config["attention_probs_dropout_prob"],
            "drop_path_rate": config["drop_path_rate"],
            "norm_cfg": {"type": "LN", "eps": config["layer_norm_eps"]},
            "act_cfg": activation(config),
            "init_values": config["layer_scale_init_value"],
            "interpolate_mode": "bilinear",
        },
        "neck": {"type": "Feature2Pyramid", "embed_dim": width},
        **upernet_heads(config, [width] * 4, config["semantic_loss_ignore_index"]),
        "direct_resize": True,
    }
