"""One spelling of a config, so that two configs that mean the same are equal.

`canonical` drops values equal to a default (`DEFAULTS`, which a test compares with the constructors) and unifies
spellings. Two configs mean the same if their canonical forms are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList

OFFSET = ("ADE20KDataset", "ISPRSDataset", "LoveDADataset", "PascalContextDataset59", "PotsdamDataset")
"""Data sets whose label 0 is ignored, so that ``reduce_zero_label`` can be omitted."""

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
"""Default normalisation of images: ImageNet's mean and standard deviation, RGB."""

_RESNET = ("ResNet", "ResNetV1c", "ResNeSt")
_VIT = ("BEiT", "MAE", "SwinTransformer", "VisionTransformer")
_TWINS = ("PCPVT", "SVT")
_HEADS = (
    *("ANNHead", "APCHead", "ASPPHead", "CCHead", "DAHead", "DMHead", "DNLHead", "DPTHead"),
    *("DepthwiseSeparableASPPHead", "DepthwiseSeparableFCNHead", "EMAHead", "EncHead", "FCNHead", "FPNHead"),
    *("GCHead", "ISAHead", "LRASPPHead", "LightHamHead", "NLHead", "OCRHead", "PSAHead", "PSPHead", "PointHead"),
    *("SETRMLAHead", "SETRUPHead", "STDCHead", "SegformerHead", "SegmenterMaskTransformerHead", "UPerHead"),
)
_RELU, _GELU, _LN = {"type": "ReLU"}, {"type": "GELU"}, {"type": "LN"}

DEFAULTS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("EncoderDecoder", "CascadeEncoderDecoder", "MultimodalEncoderDecoder"), {"test_cfg": {"mode": "whole"}}),
    (_RESNET, {"num_stages": 4, "out_indices": [0, 1, 2, 3], "style": "pytorch", "frozen_stages": -1}),
    (("ResNet",), {"deep_stem": False}),
    ((*_RESNET, "HRNet", "UNet", "BEiT", "MAE", "VisionTransformer"), {"norm_eval": False}),
    ((*_RESNET, *_VIT, *_TWINS, "MixVisionTransformer", "UNet", "BiSeNetV1", "ICNet", "ERFNet"), {"in_channels": 3}),
    (("MSCAN", "CGNet", "DDRNet", "PIDNet"), {"in_channels": 3}),
    (_VIT, {"mlp_ratio": 4, "act_cfg": _GELU}),
    (("BEiT", "MAE"), {"attn_drop_rate": 0, "patch_size": 16}),
    (("SwinTransformer",), {"qkv_bias": True, "qk_scale": None, "drop_rate": 0, "attn_drop_rate": 0, "with_cp": False}),
    (("SwinTransformer",), {"use_abs_pos_embed": False, "patch_norm": True, "out_indices": [0, 1, 2, 3]}),
    (("SwinTransformer",), {"frozen_stages": -1, "patch_size": 4, "strides": [4, 2, 2, 2], "norm_cfg": _LN}),
    (("SwinTransformer",), {"window_size": 7, "pretrain_img_size": 224}),
    (("VisionTransformer",), {"qkv_bias": True, "drop_rate": 0, "attn_drop_rate": 0, "patch_size": 16}),
    (("VisionTransformer",), {"with_cls_token": True, "interpolate_mode": "bicubic"}),
    (("MixVisionTransformer",), {"num_stages": 4, "out_indices": [0, 1, 2, 3], "drop_rate": 0, "attn_drop_rate": 0}),
    (_TWINS, {"out_indices": [0, 1, 2, 3], "drop_rate": 0, "attn_drop_rate": 0}),
    (("UNet",), {"strides": [1] * 5, "enc_num_convs": [2] * 5, "enc_dilations": [1] * 5, "dec_num_convs": [2] * 4}),
    (("UNet",), {"dec_dilations": [1] * 4, "downsamples": [True] * 4, "with_cp": False, "conv_cfg": None}),
    (("UNet",), {"act_cfg": _RELU, "upsample_cfg": {"type": "InterpConv"}}),
    (_HEADS, {"dropout_ratio": 0.1, "in_index": -1, "align_corners": False}),
    (tuple(name for name in _HEADS if name not in ("PointHead", "SegmenterMaskTransformerHead")), {"act_cfg": _RELU}),
    ((*_HEADS, "DDRHead"), {"loss_decode": {"type": "CrossEntropyLoss"}}),
    (("FCNHead", "STDCHead", "DepthwiseSeparableFCNHead"), {"num_convs": 2, "concat_input": True}),
    (("EncHead",), {"add_lateral": False}),
    (("CrossEntropyLoss",), {"use_sigmoid": False, "loss_weight": 1.0, "loss_name": "loss_ce"}),
    (("DiceLoss",), {"loss_weight": 1.0, "loss_name": "loss_dice"}),
    (("IoUMetric",), {"iou_metrics": ["mIoU"]}),
    (("SyncBN", "BN", "LN", "GN"), {"requires_grad": True}),
]
"""Default arguments of classes."""

_USUAL: dict[str, dict[str, Any]] = {}
for _types, _arguments in DEFAULTS:
    for _name in _types:
        _USUAL.setdefault(_name, {}).update(_arguments)


def canonical(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections without default values, in a unique spelling.

    Args:
        sections: Some or all sections of a resolved config.
    """
    result = {name: canonical_value(value) for name, value in sections.items()}
    model, data, schedule = (result.setdefault(key, {}) for key in ("model", "data", "schedule"))
    for part in ("train", "val", "test"):
        if data.get(part):
            data[part] = _canonical_set(data[part])
    if data.get("test") == data.get("val"):
        data.pop("test", None)
    if "lr" in schedule:
        schedule["lr"] = [_bound(spec, schedule.get("iterations")) for spec in schedule["lr"] or ()]
    if "train_cfg" in model and not any((model["train_cfg"] or {}).values()):
        del model["train_cfg"]
    if "preprocess" in data:
        data["preprocess"] = {"mean": MEAN, "std": STD, **data["preprocess"]}
    return _without_none(result)


def canonical_value(value: Any) -> Any:
    """Return a value without defaults of the components in it; tuples are lists, and 2.0 is 2."""
    if isinstance(value, (list, tuple)):
        return [canonical_value(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, Mapping):
        return value
    result = {str(key): canonical_value(entry) for key, entry in value.items()}
    usual = _USUAL.get(str(result.get("type")), {}) | _usual_query_loss(result)
    return {key: entry for key, entry in result.items() if key not in usual or entry != canonical_value(usual[key])}


def lean(value: Any) -> Any:
    """Return a value without defaults of the components in it; what remains is as it was written, with its place."""
    if isinstance(value, MarkedList):
        return MarkedList([lean(item) for item in value], places=value.places, place=value.place)
    if not isinstance(value, MarkedDict):
        return value
    kept = canonical_value(value)
    result = value.without(*(key for key in value if str(key) not in kept))
    for key in result:
        result[key] = lean(result[key])
    return result


def _usual_query_loss(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default classification loss of a query head, in which "no object" has the weight 0.1."""
    factor = {"MaskFormerHead": 1, "Mask2FormerHead": 2}.get(str(head.get("type")))
    if factor is None:
        return {}
    given = {"type": "QueryCrossEntropyLoss", "use_sigmoid": False, "loss_weight": factor, "reduction": "mean"}
    return {"loss_cls": {**given, "class_weight": [1] * head.get("num_classes", 0) + [0.1]}}


def _without_none(sections: dict[str, Any]) -> dict[str, Any]:
    """Return sections without the keys that are None."""
    return {
        name: {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else part
        for name, part in sections.items()
    }


def _canonical_set(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set with ``reduce_zero_label``, and without a trailing slash in its folder."""
    if "datasets" in spec:
        return {**spec, "datasets": [_canonical_set(part) for part in spec["datasets"]]}
    result = {**spec}
    if isinstance(spec.get("data_root"), str):
        result["data_root"] = spec["data_root"].rstrip("/")
    result.setdefault("reduce_zero_label", spec.get("type") in OFFSET)
    return result


def _bound(spec: Mapping[str, Any], iterations: int | None) -> dict[str, Any]:
    """Return a schedule with its first and last iteration."""
    return {"by_epoch": False, "begin": 0, "end": None if spec.get("by_epoch") else iterations, **spec}
