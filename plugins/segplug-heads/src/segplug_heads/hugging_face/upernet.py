"""UPerNet on Swin or ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segplug_heads.hugging_face.values import activation, only, unsupported

DEFAULTS: dict[str, Any] = {
    "hidden_size": 512,
    "pool_scales": [1, 2, 3, 6],
    "use_auxiliary_head": True,
    "auxiliary_loss_weight": 0.4,
    "auxiliary_channels": 256,
    "auxiliary_num_convs": 1,
    "auxiliary_concat_input": False,
    "loss_ignore_index": 255,
}
SWIN: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.1,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
CONVNEXT: dict[str, Any] = {
    "num_channels": 3,
    "patch_size": 4,
    "hidden_sizes": [96, 192, 384, 768],
    "depths": [3, 3, 9, 3],
    "hidden_act": "gelu",
    "layer_scale_init_value": 1e-6,
    "drop_path_rate": 0.0,
}
AUXILIARY_STAGE = 2


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``UperNetConfig``."""
    config = DEFAULTS | dict(config)
    given = config.get("backbone_config")
    if not given:
        raise unsupported("backbone", config.get("backbone"), "a model with a backbone_config of its own is")
    backbone = BACKBONES.get(given.get("model_type", ""))
    if backbone is None:
        raise unsupported("backbone_config.model_type", given.get("model_type"), f"supported: {', '.join(BACKBONES)}")
    spec, widths = backbone(given)
    return {"type": "EncoderDecoder", "backbone": spec, **upernet_heads(config, widths, config["loss_ignore_index"])}


def upernet_heads(config: Mapping[str, Any], widths: Sequence[int], ignore_index: int) -> dict[str, Any]:
    """Return decode head and auxiliary head.

    Args:
        config: The config of the model, which has the keys of a ``UperNetConfig``.
        widths: Channels of the four maps.
        ignore_index: The ignored label.
    """
    common = {"num_classes": "${data.num_classes}", "norm_cfg": {"type": "SyncBN"}, "ignore_index": ignore_index}
    heads: dict[str, Any] = {
        "decode_head": {
            "type": "UPerHead",
            "in_channels": list(widths),
            "in_index": list(range(len(widths))),
            "channels": config["hidden_size"],
            "pool_scales": config["pool_scales"],
            "dropout_ratio": 0.0,
            **common,
        }
    }
    if config["use_auxiliary_head"]:
        heads["auxiliary_head"] = {
            "type": "FCNHead",
            "in_channels": config.get("auxiliary_in_channels") or widths[AUXILIARY_STAGE],
            "in_index": AUXILIARY_STAGE,
            "channels": config["auxiliary_channels"],
            "num_convs": config["auxiliary_num_convs"],
            "concat_input": config["auxiliary_concat_input"],
            "dropout_ratio": 0.0,
            "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": config["auxiliary_loss_weight"]},
            **common,
        }
    return heads


def swin(config: Mapping[str, Any], prefix: str = "backbone_config") -> tuple[dict[str, Any], list[int]]:
    """Return the backbone of a ``SwinConfig``, and the channels of its maps."""
    config = SWIN | dict(config)
    depths = config["depths"]
    stages = stages_of(config, len(depths), prefix)
    spec = {
        "type": "SwinTransformer",
        "pretrain_img_size": config["image_size"],
        "in_channels": config["num_channels"],
        "embed_dims": config["embed_dim"],
        "patch_size": config["patch_size"],
        "window_size": config["window_size"],
        "mlp_ratio": config["mlp_ratio"],
        "depths": depths,
        "num_heads": config["num_heads"],
        "strides": [config["patch_size"], *[2] * (len(depths) - 1)],
        "out_indices": stages,
        "qkv_bias": config["qkv_bias"],
        "drop_rate": config["hidden_dropout_prob"],
        "attn_drop_rate": config["attention_probs_dropout_prob"],
        "drop_path_rate": config["drop_path_rate"],
        "use_abs_pos_embed": config["use_absolute_embeddings"],
        "act_cfg": activation(config),
        "norm_cfg": {"type": "LN", "eps": config["layer_norm_eps"]},
    }
    return spec, [config["embed_dim"] * 2**stage for stage in stages]


def convnext(config: Mapping[str, Any], prefix: str = "backbone_config") -> tuple[dict[str, Any], list[int]]:
    """Return the backbone of a ``ConvNextConfig``, and the channels of its maps.

    transformers does not read ``layer_norm_eps``: the norms have 1e-6.
    """
    is_v2 = config.get("model_type") == "convnextv2"
    config = CONVNEXT | dict(config)
    stages = stages_of(config, len(config["depths"]), prefix)
    spec = {
        "type": "ConvNeXt",
        "arch": {"depths": config["depths"], "channels": config["hidden_sizes"]},
        "in_channels": config["num_channels"],
        "stem_patch_size": config["patch_size"],
        "act_cfg": activation(config),
        "use_grn": is_v2,
        "drop_path_rate": config["drop_path_rate"],
        "layer_scale_init_value": 0.0 if is_v2 else config["layer_scale_init_value"],
        "out_indices": stages,
        "gap_before_final_norm": False,
    }
    return spec, [config["hidden_sizes"][stage] for stage in stages]


def stages_of(config: Mapping[str, Any], count: int, prefix: str) -> list[int]:
    """Return the stages that a backbone returns, from 0; ``out_features`` names them ``stage1`` and so on.

    Raises:
        ConfigError: There are not four.
    """
    names = config.get("out_features") or [f"stage{index}" for index in config.get("out_indices") or [count]]
    if len(names) != 4 or "stem" in names:
        raise unsupported(f"{prefix}.out_features", names, "four stages are needed")
    only(config, reshape_hidden_states=True)
    return [int(str(name).removeprefix("stage")) - 1 for name in names]


BACKBONES = {"swin": swin, "convnext": convnext, "convnextv2": convnext}
"""By ``model_type``."""
