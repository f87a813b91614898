"""Mask2Former for semantic segmentation.

Probabilities of classes and masks are multiplied at 384 x 384 pixels, as its image processor does for all models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segplug_heads.hugging_face.upernet import BACKBONES
from segplug_heads.hugging_face.values import ACTIVATIONS, only, unsupported

DEFAULTS: dict[str, Any] = {
    "feature_size": 256,
    "mask_feature_size": 256,
    "hidden_dim": 256,
    "encoder_feedforward_dim": 1024,
    "activation_function": "relu",
    "encoder_layers": 6,
    "decoder_layers": 10,
    "num_attention_heads": 8,
    "dropout": 0.0,
    "dim_feedforward": 2048,
    "enforce_input_projection": False,
    "ignore_value": 255,
    "num_queries": 100,
}
LOSSES: dict[str, Any] = {
    "no_object_weight": 0.1,
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 5.0,
    "train_num_points": 12544,
    "oversample_ratio": 3.0,
    "importance_sample_ratio": 0.75,
}
INFERENCE_SIZE = [384, 384]


def segmentor(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a ``Mask2FormerConfig``."""
    config = DEFAULTS | dict(config)
    only(config, pre_norm=False, common_stride=4, use_auxiliary_loss=True)
    backbone, widths = backbone_of(config)
    head = {
        "type": "Mask2FormerHead",
        "out_channels": config["mask_feature_size"],
        "enforce_decoder_input_project": config["enforce_input_projection"],
        "inference_size": INFERENCE_SIZE,
        **transformer(config, widths, config["feature_size"], config["activation_function"]),
        **losses(config),
    }
    return {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, "direct_resize": True}


def backbone_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Return the backbone, and the channels of its four maps."""
    given = config.get("backbone_config")
    if not given:
        raise unsupported("backbone", config.get("backbone"), "a model with a backbone_config of its own is")
    if (backbone := BACKBONES.get(given.get("model_type", ""))) is None:
        raise unsupported("backbone_config.model_type", given.get("model_type"), f"supported: {', '.join(BACKBONES)}")
    return backbone(given)


def transformer(config: Mapping[str, Any], widths: list[int], pixel_channels: int, activation: str) -> dict[str, Any]:
    """Return the arguments of `Mask2FormerHead` that are about its transformers.

    Args:
        config: The values that Mask2Former and OneFormer name alike.
        widths: Channels of the backbone's maps.
        pixel_channels: Channels of the pixel decoder.
        activation: Name of the activation in the decoder's feed-forward networks.
    """
    channels, heads = config["hidden_dim"], config["num_attention_heads"]
    if pixel_channels != channels:
        raise unsupported("hidden_dim", channels, f"only that of the pixel decoder is, {pixel_channels}")
    if activation not in ACTIVATIONS:
        raise unsupported("activation_function", activation, f"supported: {', '.join(ACTIVATIONS)}")
    act, drop = ACTIVATIONS[activation], config["dropout"]
    positions = {"num_feats": channels // 2, "normalize": True}
    attention = {"embed_dims": channels, "num_heads": heads, "num_levels": 3, "num_points": 4, "dropout": drop}
    pixel_decoder = {
        "type": "MSDeformAttnPixelDecoder",
        "num_outs": 3,
        "encoder": {
            "num_layers": config["encoder_layers"],
            "layer_cfg": {
                "self_attn_cfg": attention,
                # Whatever the config says: its activation is that of the decoder.
                "ffn_cfg": ffn(channels, config["encoder_feedforward_dim"], ACTIVATIONS["relu"], drop),
            },
        },
        "positional_encoding": positions,
    }
    return {
        "in_channels": widths,
        "feat_channels": channels,
        "num_classes": "${data.num_classes}",
        "num_queries": config["num_queries"],
        "pixel_decoder": pixel_decoder,
        "positional_encoding": positions,
        # The first of transformers' layers is the prediction before any layer.
        "transformer_decoder": decoder(config, config["decoder_layers"] - 1, act, drop=0.0),
        "ignore_index": config["ignore_value"],
    }


def decoder(config: Mapping[str, Any], num_layers: int, act_cfg: dict[str, Any], drop: float) -> dict[str, Any]:
    """Return the arguments of a decoder of queries, with the dropout rate ``drop``."""
    channels = config["hidden_dim"]
    attention = {"embed_dims": channels, "num_heads": config["num_attention_heads"], "attn_drop": drop}
    return {
        "num_layers": num_layers,
        "layer_cfg": {
            "self_attn_cfg": attention,
            "cross_attn_cfg": attention,
            "ffn_cfg": ffn(channels, config["dim_feedforward"], act_cfg, drop),
        },
    }


def ffn(channels: int, hidden: int, act_cfg: dict[str, Any], drop: float) -> dict[str, Any]:
    """Return the arguments of a feed-forward network."""
    return {"embed_dims": channels, "feedforward_channels": hidden, "act_cfg": act_cfg, "ffn_drop": drop}


def losses(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the losses, and the points at which they compare masks, where they are not Mask2Former's own."""
    values = LOSSES | {key: config[key] for key in LOSSES if key in config}
    points = ("num_points", "oversample_ratio", "importance_sample_ratio")
    train = {key: values["train_num_points" if key == "num_points" else key] for key in points}
    if values == LOSSES:
        return {"train_cfg": train}
    count = len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)
    weights = [1.0] * count + [values["no_object_weight"]]
    cross_entropy, dice = {"type": "QueryCrossEntropyLoss"}, {"type": "QueryDiceLoss", "naive_dice": True, "eps": 1.0}
    return {
        "train_cfg": train,
        "loss_cls": cross_entropy | {"class_weight": weights, "loss_weight": values["class_weight"]},
        "loss_mask": cross_entropy | {"use_sigmoid": True, "loss_weight": values["mask_weight"]},
        "loss_dice": dice | {"loss_weight": values["dice_weight"]},
    }
