"""The options of Detectron as the sections of a config.

sections = translate(read_options(Path("e2e_mask_rcnn_R-50-FPN_1x.yaml")))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segkernel.config.marks import MarkedDict, MarkedList, Place
from segplug_instances.moving_in.options import Options

_BODY = re.compile(
    r"(?P<fpn>fpn_)?ResNet(?P<depth>50|101|152)_conv(?P<last>[45])(?P<fine>_P2only)?_body", re.IGNORECASE
)
_POOLERS = {"RoIAlign": "align", "RoIPoolF": "pool", "RoICrop": "crop"}
_CONVS = {"v1up4convs": 4, "v1up": 2, "v1upXconvs": 4}
_EPOCHS, _DECAYS = 6, [4, 5]
"""Length and decays of Detectron.pytorch's training."""


def translate(options: Options) -> MarkedDict:
    """Return the sections of a config; what has no effect is in `Options.notes`.

    Raises:
        ConfigError: It is of a model that does not exist here, or names an unknown body or head.
    """
    if options["RETINANET.RETINANET_ON"]:
        raise options.problem("RETINANET.RETINANET_ON", "there is no RetinaNet here")
    if not (options["MODEL.FASTER_RCNN"] or options["MODEL.RPN_ONLY"] or options["RPN.RPN_ON"]):
        hint = "set MODEL.FASTER_RCNN: True to train the proposals as well"
        raise options.problem("MODEL.CONV_BODY", "is a model of precomputed proposals (Fast R-CNN), see MODEL", hint)
    sections = {"_base_": f"segplug-instances::data/{_data_part(options)}.yaml", "model": _model(options)}
    sections |= {"data": _data(options), "optim": _optim(options), "schedule": _schedule(options)}
    if views := _views(options):
        sections["evaluate"] = {"tta": views}
    if seed := options["RNG_SEED"]:
        sections["seed"] = seed
    marked = _placed(sections, Place(options.file) if options.file else None)
    assert isinstance(marked, MarkedDict)
    return marked


def _placed(value: Any, place: Place | None) -> Any:
    """Return plain containers as marked ones, whose values all come from one file."""
    if isinstance(value, dict):
        entries = {key: _placed(entry, place) for key, entry in value.items()}
        return MarkedDict(entries, places=dict.fromkeys(entries, place) if place else {}, place=place)
    if isinstance(value, list):
        items = [_placed(entry, place) for entry in value]
        return MarkedList(items, places=dict.fromkeys(range(len(items)), place) if place else {}, place=place)
    return value


def _data_part(options: Options) -> str:
    """Return the packaged data set of the kind of model, of the year of the one that is named."""
    kind = "keypoints" if options["MODEL.KEYPOINTS_ON"] else "instances" if options["MODEL.MASK_ON"] else "boxes"
    return f"coco-{'2017' if '2017' in str(options['TRAIN.DATASETS']) else '2014'}-{kind}"


def _name(options: Options, option: str) -> str:
    """Return the function that an option names, without module and Detectron's ``add_``."""
    name = str(options[option]).rpartition(".")[2]
    return name.removeprefix("add_")


def _model(options: Options) -> dict[str, Any]:
    found = _BODY.fullmatch(name := _name(options, "MODEL.CONV_BODY"))
    if found is None:
        raise options.problem(
            "MODEL.CONV_BODY", f"there is no body {name!r} here", "such as FPN.fpn_ResNet50_conv5_body"
        )
    pyramid, pretrained = bool(found["fpn"]), options["RESNETS.IMAGENET_PRETRAINED_WEIGHTS"] or None
    model: dict[str, Any] = {"type": "RCNN", "convention": "detectron"}
    model["pretrained"] = pretrained if options["MODEL.LOAD_IMAGENET_PRETRAINED_WEIGHTS"] else None
    model["num_classes"] = "${data.num_classes}"
    model["backbone"] = _backbone(options, int(found["depth"]), int(found["last"]))
    model["neck"] = _neck(options, bool(found["fine"])) if pyramid else None
    if not pyramid:
        model["size_divisor"] = 1
    elif options["FPN.COARSEST_STRIDE"] != 32:
        model["size_divisor"] = options["FPN.COARSEST_STRIDE"]
    model["rpn"] = _rpn(options, pyramid, bool(found["fine"]))
    if options["MODEL.RPN_ONLY"]:
        return model
    model["box_head"] = _box_head(options)
    if options["MODEL.MASK_ON"]:
        model["mask_head"] = _mask_head(options)
    if options["MODEL.KEYPOINTS_ON"]:
        model["keypoint_head"] = _keypoint_head(options)
    return model | {"output": _output(options)}


def _backbone(options: Options, depth: int, last: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "DetectionResNet", "depth": depth, "style": _style(options)}
    found |= {"frozen_stages": options["RESNETS.FREEZE_AT"] - 1, **_groups(options)}
    if last == 4:
        found |= {"num_stages": 3, "out_indices": [2]}
    elif options["RESNETS.RES5_DILATION"] != 1:
        found |= {"strides": [1, 2, 2, 1], "dilations": [1, 1, 1, options["RESNETS.RES5_DILATION"]]}
    if last == 5 and not options["FPN.FPN_ON"]:
        found["out_indices"] = [3]
    if options["RESNETS.USE_GN"] or "gn" in str(options["RESNETS.TRANS_FUNC"]):
        found["norm_cfg"] = _group_norm(options)
    return found


def _style(options: Options) -> str:
    return "caffe" if options["RESNETS.STRIDE_1X1"] else "pytorch"


def _groups(options: Options) -> dict[str, Any]:
    groups, width = options["RESNETS.NUM_GROUPS"], options["RESNETS.WIDTH_PER_GROUP"]
    return {} if (groups, width) == (1, 64) else {"groups": groups, "base_width": width}


def _group_norm(options: Options) -> dict[str, Any]:
    return {"type": "GN", "num_groups": options["GROUP_NORM.NUM_GROUPS"]}


def _neck(options: Options, fine: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "DetectionFPN"}
    if options["FPN.DIM"] != 256:
        found["out_channels"] = options["FPN.DIM"]
    if fine:
        found["num_outs"] = 1
    return found | ({"norm_cfg": _group_norm(options)} if options["FPN.USE_GN"] else {})


def _rpn(options: Options, pyramid: bool, fine: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "RPN"}
    for name, option in (("pre_nms", "RPN_PRE_NMS_TOP_N"), ("post_nms", "RPN_POST_NMS_TOP_N")):
        found[name] = [options[f"{phase}.{option}"] for phase in ("TRAIN", "TEST")]
    found["min_size"] = float(options["TRAIN.RPN_MIN_SIZE"])
    if pyramid and not fine:
        start, ratios = options["FPN.RPN_ANCHOR_START_SIZE"], options["FPN.RPN_ASPECT_RATIOS"]
        sizes = [[start << level] for level in range(5)]
    else:
        sizes, ratios = [list(options["RPN.SIZES"])], options["RPN.ASPECT_RATIOS"]
    if sizes != [[32], [64], [128], [256], [512]] or list(ratios) != [0.5, 1, 2]:
        found["anchors"] = {"type": "Anchors", "sizes": sizes}
        if list(ratios) != [0.5, 1, 2]:
            found["anchors"]["ratios"] = [float(ratio) for ratio in ratios]
    if not options["RPN.OUT_DIM_AS_IN_DIM"]:
        found["channels"] = options["RPN.OUT_DIM"]
    if options["RPN.CLS_ACTIVATION"] == "softmax":
        found["softmax"] = True
    numbers = {
        "nms_threshold": ("TEST.RPN_NMS_THRESH", 0.7),
        "positive_iou": ("TRAIN.RPN_POSITIVE_OVERLAP", 0.7),
        "negative_iou": ("TRAIN.RPN_NEGATIVE_OVERLAP", 0.3),
        "batch_size_per_image": ("TRAIN.RPN_BATCH_SIZE_PER_IM", 256),
        "positive_fraction": ("TRAIN.RPN_FG_FRACTION", 0.5),
    }
    return found | _changed(options, numbers)


def _changed(options: Options, numbers: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Return arguments by name, from (option, the component's default), without those that are the default."""
    return {name: options[option] for name, (option, usual) in numbers.items() if options[option] != usual}


def _pooler(options: Options, head: str) -> dict[str, Any]:
    method = options[f"{head}.ROI_XFORM_METHOD"]
    if method not in _POOLERS:
        raise options.problem(f"{head}.ROI_XFORM_METHOD", f"must be one of {', '.join(_POOLERS)}, not {method!r}")
    found = {"type": "RoIPooler", "output_size": options[f"{head}.ROI_XFORM_RESOLUTION"]}
    found["sampling_ratio"] = options[f"{head}.ROI_XFORM_SAMPLING_RATIO"]
    return found if method == "RoIAlign" else found | {"kind": _POOLERS[method]}


def _box_head(options: Options) -> dict[str, Any]:
    name = _name(options, "FAST_RCNN.ROI_BOX_HEAD")
    width = options["FAST_RCNN.MLP_HEAD_DIM"]
    found: dict[str, Any]
    if name == "roi_2mlp_head":
        found = {"type": "MLPBoxHead"} | ({"fc_channels": width} if width != 1024 else {})
    elif name in ("roi_Xconv1fc_head", "roi_Xconv1fc_gn_head"):
        convs, channels = options["FAST_RCNN.NUM_STACKED_CONVS"], options["FAST_RCNN.CONV_HEAD_DIM"]
        found = {
            "type": "MLPBoxHead",
            "num_convs": convs,
            "conv_channels": channels,
            "num_fcs": 1,
            "fc_channels": width,
        }
        found |= {"norm_cfg": _group_norm(options)} if "_gn_" in name else {}
    elif name == "ResNet_roi_conv5_head":
        found = {
            "type": "Res5BoxHead",
            "style": _style(options),
            "pretrained": "${model.pretrained}",
            **_groups(options),
        }
    else:
        hint = "roi_2mlp_head, roi_Xconv1fc_head, roi_Xconv1fc_gn_head or ResNet_roi_conv5_head"
        raise options.problem("FAST_RCNN.ROI_BOX_HEAD", f"there is no box head {name!r} here", hint)
    found |= {
        "pooler": _pooler(options, "FAST_RCNN"),
        "crowd_overlap": options["TRAIN.CROWD_FILTER_THRESH"],
        "beta": 1.0,
    }
    negative = [options["TRAIN.BG_THRESH_LO"], options["TRAIN.BG_THRESH_HI"]]
    found |= {"negative_iou": negative} if negative != [0.0, 0.5] else {}
    numbers = {
        "class_agnostic": ("MODEL.CLS_AGNOSTIC_BBOX_REG", False),
        "box_weights": ("MODEL.BBOX_REG_WEIGHTS", [10.0, 10.0, 5.0, 5.0]),
        "batch_size_per_image": ("TRAIN.BATCH_SIZE_PER_IM", 512),
        "positive_fraction": ("TRAIN.FG_FRACTION", 0.25),
        "positive_iou": ("TRAIN.FG_THRESH", 0.5),
    }
    return found | _changed(options, numbers)


def _mask_head(options: Options) -> dict[str, Any]:
    name = _name(options, "MRCNN.ROI_MASK_HEAD")
    kind = name.removeprefix("mask_rcnn_fcn_head_").removesuffix("_gn")
    found: dict[str, Any] = {"type": "MaskHead"}
    if kind in _CONVS:
        found |= {"num_convs": _CONVS[kind]} if _CONVS[kind] != 4 else {}
        found |= {"norm_cfg": _group_norm(options)} if name.endswith("_gn") else {}
        found |= _changed(options, {"dilation": ("MRCNN.DILATION", 1)})
    elif kind in ("v0up", "v0upshare"):
        found["trunk"] = "shared" if kind == "v0upshare" else "res5"
        found |= {"style": _style(options)} if kind == "v0up" else {}
    else:
        hint = "mask_rcnn_fcn_head_ and v1up4convs, v1up, v0up or v0upshare"
        raise options.problem("MRCNN.ROI_MASK_HEAD", f"there is no mask head {name!r} here", hint)
    found["pooler"] = _pooler(options, "MRCNN")
    found |= {} if options["MRCNN.CLS_SPECIFIC_MASK"] else {"class_agnostic": True}
    return found | _changed(options, {"channels": ("MRCNN.DIM_REDUCED", 256)})


def _keypoint_head(options: Options) -> dict[str, Any]:
    name = _name(options, "KRCNN.ROI_KEYPOINTS_HEAD")
    if name != "roi_pose_head_v1convX":
        message = f"there is no keypoint head {name!r} here"
        raise options.problem("KRCNN.ROI_KEYPOINTS_HEAD", message, "keypoint_rcnn_heads.roi_pose_head_v1convX")
    numbers = {
        "num_keypoints": ("KRCNN.NUM_KEYPOINTS", 17),
        "num_convs": ("KRCNN.NUM_STACKED_CONVS", 8),
        "channels": ("KRCNN.CONV_HEAD_DIM", 512),
    }
    found = {"type": "KeypointHead", "pooler": _pooler(options, "KRCNN"), **_changed(options, numbers)}
    if not options["KRCNN.NORMALIZE_BY_VISIBLE_KEYPOINTS"]:
        boxes = options["TRAIN.IMS_PER_BATCH"] * options["TRAIN.BATCH_SIZE_PER_IM"] * options["TRAIN.FG_FRACTION"]
        found["keypoints_per_batch"] = int(boxes * options["KRCNN.NUM_KEYPOINTS"])
    return found


def _output(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "Instances", "resize_rule": [options["TEST.SCALE"], options["TEST.MAX_SIZE"]]}
    numbers = {
        "score_threshold": ("TEST.SCORE_THRESH", 0.05),
        "nms_threshold": ("TEST.NMS", 0.5),
        "limit": ("TEST.DETECTIONS_PER_IM", 100),
        "mask_threshold": ("MRCNN.THRESH_BINARIZE", 0.5),
    }
    found |= _changed(options, numbers)
    if options["TEST.SOFT_NMS.ENABLED"]:
        found |= {"soft_nms": options["TEST.SOFT_NMS.METHOD"], "soft_nms_sigma": options["TEST.SOFT_NMS.SIGMA"]}
    if options["TEST.BBOX_VOTE.ENABLED"]:
        scores = str(options["TEST.BBOX_VOTE.SCORING_METHOD"]).lower()
        found |= {"box_voting": options["TEST.BBOX_VOTE.VOTE_TH"], "voted_score": scores}
    return found


def _data(options: Options) -> dict[str, Any]:
    resize = {"type": "DetectionResize", "short": list(options["TRAIN.SCALES"]), "max_size": options["TRAIN.MAX_SIZE"]}
    train: list[dict[str, Any]] = [resize | {"convention": "detectron"}]
    if options["TRAIN.USE_FLIPPED"]:
        train.append({"type": "RandomFlip", "prob": 0.5})
    train.append({"type": "FilterAnnotations"})
    if options["TRAIN.ASPECT_CROPPING"]:
        train.insert(0, {"type": "AspectCrop", "low": options["TRAIN.ASPECT_LO"], "high": options["TRAIN.ASPECT_HI"]})
    test = {"type": "DetectionResize", "short": [options["TEST.SCALE"]], "max_size": options["TEST.MAX_SIZE"]}
    means = options["PIXEL_MEANS"]
    while isinstance(means[0], list):
        means = means[0]
    found: dict[str, Any] = {"train_transforms": train, "eval_transforms": [test | {"convention": "detectron"}]}
    found["preprocess"] = {"mean": [float(mean) for mean in reversed(means)], "std": [1.0, 1.0, 1.0]}
    return found if options["TRAIN.ASPECT_GROUPING"] else found | {"sampler": None}


def _optim(options: Options) -> dict[str, Any]:
    optimizer = {"type": options["SOLVER.TYPE"], "lr": options["SOLVER.BASE_LR"]}
    optimizer |= {"momentum": options["SOLVER.MOMENTUM"]} if optimizer["type"] == "SGD" else {}
    decay = options["SOLVER.WEIGHT_DECAY"]
    bias = {"lr_mult": 2.0 if options["SOLVER.BIAS_DOUBLE_LR"] else 1.0}
    bias["decay_mult"] = 1.0 if options["SOLVER.BIAS_WEIGHT_DECAY"] else 0.0
    norm = options["SOLVER.WEIGHT_DECAY_GN"] / decay if decay else 0.0
    return {
        "optimizer": optimizer | {"weight_decay": decay},
        "batch_size": options["NUM_GPUS"] * options["TRAIN.IMS_PER_BATCH"],
        "paramwise": {"norm_decay_mult": norm, "custom_keys": {"bias": bias}},
    }


def _schedule(options: Options) -> dict[str, Any]:
    """Return Detectron.pytorch's schedule, which counts epochs."""
    decay = {"type": "MultiStepLR", "milestones": _DECAYS, "gamma": options["SOLVER.GAMMA"], "by_epoch": True}
    return {"epochs": _EPOCHS, "val_interval": 1, "lr": [decay]}


def _views(options: Options) -> dict[str, Any]:
    """Return test-time augmentation; scales are relative to ``TEST.SCALE``."""
    if not options["TEST.BBOX_AUG.ENABLED"]:
        return {}
    scales = [round(scale / options["TEST.SCALE"], 4) for scale in options["TEST.BBOX_AUG.SCALES"]]
    flip = options["TEST.BBOX_AUG.H_FLIP"] or options["TEST.BBOX_AUG.SCALE_H_FLIP"]
    return {"scales": sorted({1.0, *scales}), "flip": bool(flip)}
