"""Conversion of MMSegmentation's published configs into the sections of our configs.

`renamed` converts a line of ``experiments.jsonl`` into our sections. `canonical` brings both sides into one form: it
drops values equal to a default (`DEFAULTS`, which a test compares with the constructors) and unifies spellings. Two
configs are equal if their canonical forms are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))

from golden_names import translate

READING = ("LoadImageFromFile", "LoadAnnotations", "LoadDepthAnnotation", "LoadMultipleRSImageFromFile")
"""Pipeline steps that are part of a data set here, with their arguments."""

PACKING = ("PackSegInputs",)
"""Pipeline steps that the loader performs here."""

OFFSET = ("ADE20KDataset", "ISPRSDataset", "LoveDADataset", "PascalContextDataset59", "PotsdamDataset")
"""Data sets whose label 0 is ignored, so that ``reduce_zero_label`` can be omitted."""

DEVICES = {
    "cityscapes": 4,
    "voc": 4,
    "fpn_poolformer_s36_8x4_512x512_40k_ade20k": 8,
    "san-vit-b16_coco-stuff164k-640x640": 2,
    "san-vit-l14_coco-stuff164k-640x640": 4,
    "san-vit-b16_pascal_context-640x640": 8,
    "san-vit-l14_pascal_context-640x640": 8,
    "san-vit-b16_voc12aug-640x640": 8,
    "san-vit-l14_voc12aug-640x640": 8,
}
"""Number of devices of the runs whose name does not contain it (``4xb2``)."""

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


def renamed(fact: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published experiment in our sections."""
    train, val = _data_set(fact["data"]["train"]), _data_set(fact["data"]["val"])
    wrapper, loop = fact["optim"], fact["loop"]
    steps = wrapper.get("accumulative_counts", 1)  # MMEngine's iteration is a batch, ours an optimiser step
    return {
        "model": _model(fact["model"]),
        "data": {
            "train": train["set"],
            "val": val["set"],
            "train_transforms": train["transforms"],
            "eval_transforms": val["transforms"],
            "preprocess": _preprocess(fact["model"]["data_preprocessor"]),
        },
        "optim": {
            "optimizer": wrapper["optimizer"],
            "batch_size": fact["data"]["batch_size"] * devices(fact["name"]) * steps,
            "paramwise": _paramwise(wrapper.get("paramwise_cfg")),
            "clip_grad": wrapper.get("clip_grad"),
        },
        "schedule": {
            "iterations": loop["max_iters"] // steps,
            "val_interval": loop["val_interval"] // steps,
            "val_begin": loop.get("val_begin"),
            "lr": [_schedule(spec, steps) for spec in fact["schedule"]],
        },
        "engine": _engine(wrapper),
        "hooks": fact["custom_hooks"] or [],
        "evaluate": {"metrics": [fact["data"]["evaluator"]]},
    }


def ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same sections as `renamed` for one of our configs."""
    data, optim, schedule = config["data"], config["optim"], config["schedule"]
    engine = {key: value for key, value in config.get("engine", {}).items() if key != "type"}
    return {
        "model": dict(config["model"]),
        "data": {key: data[key] for key in ("train", "val", "train_transforms", "eval_transforms", "preprocess")},
        "optim": {key: optim.get(key) for key in ("optimizer", "batch_size", "paramwise", "clip_grad")},
        "schedule": {key: schedule.get(key) for key in ("iterations", "val_interval", "val_begin", "lr")},
        "engine": engine,
        "hooks": config.get("hooks", []),
        "evaluate": {"metrics": config["evaluate"]["metrics"]},
    }


def canonical(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections without default values, in a unique spelling."""
    result = {name: _canonical(value) for name, value in sections.items()}
    iterations = result["schedule"]["iterations"]
    result["schedule"]["lr"] = [_bound(spec, iterations) for spec in result["schedule"]["lr"] or ()]
    for part in ("train", "val"):
        result["data"][part] = _canonical_set(result["data"][part])
    if "train_cfg" in result["model"] and not any(result["model"]["train_cfg"].values()):
        del result["model"]["train_cfg"]
    result["data"]["preprocess"] = {"mean": MEAN, "std": STD, **result["data"]["preprocess"]}
    return _without_none(result)


def devices(name: str) -> int:
    """Return the number of devices of a published run."""
    return DEVICES[name] if name in DEVICES else int(re.findall(r"_(\d+)xb\d+", name)[-1])


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model without its preprocessor, with its initial weights as the file name ``pretrained``."""
    result = translate({key: value for key, value in model.items() if key != "data_preprocessor"})
    start = _drop_init(result)
    if start is not None:
        result["pretrained"] = start
    if result.get("pretrained", "") is None:
        del result["pretrained"]
    window = result.get("test_cfg", {})
    if window.get("mode") == "whole":  # the size of windows has no effect
        result["test_cfg"] = {key: value for key, value in window.items() if key not in ("crop_size", "stride")}
    return result


def _drop_init(spec: Any, key: str = "") -> str | None:
    """Drop all ``init_cfg``; return the file of the backbone, and store others as ``pretrained`` of their part."""
    found = None
    if isinstance(spec, list):
        for entry in spec:
            _drop_init(entry)
    elif isinstance(spec, dict):
        start = (spec.pop("init_cfg", None) or {}).get("checkpoint")
        found = start if key == "backbone" else None
        if start and key != "backbone":
            spec["pretrained"] = start
        for name, value in spec.items():
            found = _drop_init(value, name) or found
        if "backbone_cfg" in spec:
            spec.pop("pretrained", None)
    return found


def _preprocess(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the normalisation; the channel order of files and the padding values are not configurable here."""
    usual = {"type": "SegDataPreProcessor", "bgr_to_rgb": True, "pad_val": 0}
    assert {key: spec[key] for key in usual} == usual
    assert spec["seg_pad_val"] == 255 or "size" in spec
    return {key: value for key, value in spec.items() if key not in usual and key != "seg_pad_val"}


def _data_set(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set and the transforms of its pipeline, or of the common pipeline of its parts."""
    spec = dict(spec)
    if "datasets" in spec:
        parts = [_data_set(part) for part in spec["datasets"]]
        assert all(part["transforms"] == parts[0]["transforms"] for part in parts)
        return {"set": {**spec, "datasets": [part["set"] for part in parts]}, "transforms": parts[0]["transforms"]}
    pipeline = spec.pop("pipeline")
    for step in pipeline:
        if step["type"] in READING:
            spec |= {key: value for key, value in step.items() if key != "type"}
    spec.pop("test_mode", None)  # whether to read labels, which we always do
    return {"set": spec, "transforms": [step for step in pipeline if step["type"] not in (*READING, *PACKING)]}


def _paramwise(spec: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return factors per parameter, without ``wd_mult``, which nothing reads, and with one spelling of layer decay."""
    if spec is None:
        return None
    result = dict(spec)
    rate = result.pop("decay_rate", result.pop("layer_decay_rate", None))
    if rate is not None:
        stages = {"stage_wise": True} if result.pop("decay_type", "layer_wise") == "stage_wise" else {}
        result["layer_decay"] = {"rate": rate, "num_layers": result.pop("num_layers"), **stages}
    rules = {name: rule for name, rule in result.pop("custom_keys", {}).items() if set(rule) != {"wd_mult"}}
    result |= {"custom_keys": rules} if rules else {}
    return result or None


def _schedule(spec: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {key: value // steps if key in ("begin", "end") else value for key, value in spec.items()}


def _engine(wrapper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the precision: with AMP float16, and the loss scale if it is a fixed number."""
    known = {"type", "optimizer", "clip_grad", "paramwise_cfg", "constructor", "loss_scale", "accumulative_counts"}
    assert not wrapper.keys() - known
    if wrapper["type"] != "AmpOptimWrapper":
        return {}
    scale = wrapper.get("loss_scale", "dynamic")
    return {"amp": "float16", **({} if scale == "dynamic" else {"loss_scale": scale})}


def _canonical(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, Mapping):
        return value
    result = {str(key): _canonical(entry) for key, entry in value.items()}
    usual = _USUAL.get(str(result.get("type")), {}) | _usual_query_loss(result)
    return {key: entry for key, entry in result.items() if key not in usual or entry != _canonical(usual[key])}


def _usual_query_loss(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default classification loss of a query head, in which "no object" has the weight 0.1."""
    factor = {"MaskFormerHead": 1, "Mask2FormerHead": 2}.get(str(head.get("type")))
    if factor is None:
        return {}
    given = {"type": "QueryCrossEntropyLoss", "use_sigmoid": False, "loss_weight": factor, "reduction": "mean"}
    return {"loss_cls": {**given, "class_weight": [1] * head["num_classes"] + [0.1]}}


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
    result = {**spec, "data_root": spec["data_root"].rstrip("/")}
    result.setdefault("reduce_zero_label", spec["type"] in OFFSET)
    return result


def _bound(spec: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """Return a schedule with its first and last iteration."""
    return {"by_epoch": False, "begin": 0, "end": iterations, **spec}
