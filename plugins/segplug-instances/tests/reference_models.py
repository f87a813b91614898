"""Detectors with the options of recorded models of Detectron.pytorch, detectron2 and torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from segkernel.interfaces.spec import Spec
from segplug_instances import DetectionFPN, DetectionResNet, KeypointHead, MaskHead, MLPBoxHead, Res5BoxHead
from segplug_instances.anchors import Anchors
from segplug_instances.output import Instances
from segplug_instances.rcnn import RCNN
from segplug_instances.roi import RoIPooler
from segplug_instances.rpn import RPN

SIZES = ((32,), (64,), (128,), (256,), (512,))


def of_torchvision(name: str, kwargs: Mapping[str, Any]) -> RCNN:
    """Return one of ``torchvision.models.detection``, with the arguments of its constructor."""
    person = name.startswith("keypoint")
    norm: dict[str, Any] = {"norm_cfg": {"type": "BN"}} if name.endswith("_v2") else {}
    deep = {"num_convs": 4, "num_fcs": 1} if norm else {}
    depth = int(re.search(r"resnet(\d+)", name)[1])  # type: ignore[index]
    return RCNN(
        DetectionResNet(depth, norm_cfg={"type": "BN"}, norm_eval=True),
        DetectionFPN(**norm),
        rpn=Spec(
            RPN,
            num_convs=2 if norm else 1,
            anchors=Spec(Anchors, sizes=SIZES),
            pre_nms=(kwargs["rpn_pre_nms_top_n_train"], kwargs["rpn_pre_nms_top_n_test"]),
            post_nms=(kwargs["rpn_post_nms_top_n_train"], kwargs["rpn_post_nms_top_n_test"]),
            batch_size_per_image=kwargs["rpn_batch_size_per_image"],
        ),
        box_head=Spec(MLPBoxHead, batch_size_per_image=kwargs["box_batch_size_per_image"], **deep, **norm),
        mask_head=Spec(MaskHead, **norm) if name.startswith("mask") else None,
        keypoint_head=Spec(KeypointHead) if person else None,
        num_classes=1 if person else 90,
        output=Spec(Instances, limit=kwargs["box_detections_per_img"]),
    )


def of_detectron2(options: Mapping[str, Any]) -> RCNN:
    """Return the model of a config of detectron2."""
    get = {key.removeprefix("MODEL."): value for key, value in options.items()}
    style = {"style": "caffe" if get["RESNETS.STRIDE_IN_1X1"] else "pytorch"}
    groups = {"groups": get["RESNETS.NUM_GROUPS"], "base_width": get["RESNETS.WIDTH_PER_GROUP"]}
    stages = [int(name[-1]) - 2 for name in get["RESNETS.OUT_FEATURES"]]
    dilation = get["RESNETS.RES5_DILATION"]
    body = DetectionResNet(
        get["RESNETS.DEPTH"],
        num_stages=max(stages) + 1,
        out_indices=stages,
        frozen_stages=get["BACKBONE.FREEZE_AT"] - 1,
        strides=(1, 2, 2, 2 // dilation),
        dilations=(1, 1, 1, dilation),
        norm_cfg=_norm(get["RESNETS.NORM"]),
        **style,
        **groups,
    )
    pyramid = "fpn" in get["BACKBONE.NAME"]
    network, boxes, masks, points = "RPN.", "ROI_BOX_HEAD.", "ROI_MASK_HEAD.", "ROI_KEYPOINT_HEAD."
    sampled = {
        "batch_size_per_image": get["ROI_HEADS.BATCH_SIZE_PER_IMAGE"],
        "positive_fraction": get["ROI_HEADS.POSITIVE_FRACTION"],
        "beta": get[f"{boxes}SMOOTH_L1_BETA"],
        "class_agnostic": get[f"{boxes}CLS_AGNOSTIC_BBOX_REG"],
        "box_weights": tuple(get[f"{boxes}BBOX_REG_WEIGHTS"]),
        "pooler": _pooler(get, boxes),
    }
    stage = get["ROI_HEADS.NAME"] == "Res5ROIHeads"
    perceptron = {"num_convs": get[f"{boxes}NUM_CONV"], "num_fcs": get[f"{boxes}NUM_FC"]}
    widths = {"conv_channels": get[f"{boxes}CONV_DIM"], "fc_channels": get[f"{boxes}FC_DIM"]}
    norm = {"norm_cfg": _norm(get[f"{boxes}NORM"])}
    box_head = (
        Spec(Res5BoxHead, **style, **groups, **sampled)
        if stage
        else Spec(MLPBoxHead, **perceptron, **widths, **norm, **sampled)
    )
    mask_head = Spec(
        MaskHead,
        trunk="shared" if stage else "convs",
        num_convs=get[f"{masks}NUM_CONV"],
        channels=get[f"{masks}CONV_DIM"],
        class_agnostic=get[f"{masks}CLS_AGNOSTIC_MASK"],
        norm_cfg=_norm(get[f"{masks}NORM"]),
        pooler=_pooler(get, masks),
    )
    dims = get[f"{points}CONV_DIMS"]
    count = get[f"{points}NUM_KEYPOINTS"]
    total = 2 * sampled["batch_size_per_image"] * sampled["positive_fraction"] * count  # two images
    by_visible = get[f"{points}NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"]
    keypoint_head = Spec(
        KeypointHead,
        num_keypoints=count,
        num_convs=len(dims),
        channels=dims[0],
        pooler=_pooler(get, points),
        keypoints_per_batch=None if by_visible else int(total),
    )
    ratios, sizes = get["ANCHOR_GENERATOR.ASPECT_RATIOS"][0], get["ANCHOR_GENERATOR.SIZES"]
    only_proposals = get["META_ARCHITECTURE"] == "ProposalNetwork"
    return RCNN(
        body,
        DetectionFPN(body.channels, norm_cfg=_norm(get["FPN.NORM"])) if pyramid else None,
        rpn=Spec(
            RPN,
            anchors=Spec(Anchors, sizes=sizes, ratios=ratios, offset=get["ANCHOR_GENERATOR.OFFSET"]),
            num_convs=len(get[f"{network}CONV_DIMS"]),
            pre_nms=(get[f"{network}PRE_NMS_TOPK_TRAIN"], get[f"{network}PRE_NMS_TOPK_TEST"]),
            post_nms=(get[f"{network}POST_NMS_TOPK_TRAIN"], get[f"{network}POST_NMS_TOPK_TEST"]),
            nms_threshold=get[f"{network}NMS_THRESH"],
            batch_size_per_image=get[f"{network}BATCH_SIZE_PER_IMAGE"],
            beta=get[f"{network}SMOOTH_L1_BETA"],
            min_size=0.0,
        ),
        box_head=None if only_proposals else box_head,
        mask_head=mask_head if get["MASK_ON"] and not only_proposals else None,
        keypoint_head=keypoint_head if get["KEYPOINT_ON"] and not only_proposals else None,
        num_classes=get["ROI_HEADS.NUM_CLASSES"],
        convention="detectron2",
        size_divisor=32 if pyramid else 1,
        output=Spec(
            Instances,
            score_threshold=get["ROI_HEADS.SCORE_THRESH_TEST"],
            nms_threshold=get["ROI_HEADS.NMS_THRESH_TEST"],
            limit=get["TEST.DETECTIONS_PER_IMAGE"],
        ),
    )


def of_detectron(name: str, config: Mapping[str, Any], limits: Mapping[str, Any], convention: str) -> RCNN:
    """Return the model of one of Detectron's baselines, ``e2e_mask_rcnn_R-50-FPN_1x``.

    Args:
        name: Of the baseline.
        config: NUM_CLASSES, STRIDE_1X1, ROI_XFORM and others.
        limits: Numbers of boxes, ``pre_nms``, ``post_nms``, ``rpn_batch``, ``box_batch`` and ``limit``.
        convention: Of the model.
    """
    depth = int(re.search(r"[RX]-(\d+)", name)[1])  # type: ignore[index]
    wide = re.search(r"X-\d+-(\d+)x(\d+)d", name)
    groups = {"groups": int(wide[1]), "base_width": int(wide[2])} if wide else {}
    style = {"style": "caffe" if config["STRIDE_1X1"] else "pytorch"}
    pyramid = "FPN" in name
    method, cells, samples = config["ROI_XFORM"]
    kind = {"RoIAlign": "align", "RoIPoolF": "pool", "RoICrop": "crop"}[method]
    heads: dict[str, Any] = {
        "pooler": Spec(RoIPooler, output_size=cells, sampling_ratio=samples, kind=kind),
        "batch_size_per_image": limits.get("box_batch", 512),
        "class_agnostic": config["CLS_AGNOSTIC_BBOX_REG"],
        "box_weights": tuple(config["BBOX_REG_WEIGHTS"]),
        "beta": 1.0,
    }
    if norm := {"norm_cfg": {"type": "GN", "num_groups": 32}} if name.endswith("_gn") else {}:
        heads |= {"num_convs": 4, "num_fcs": 1, **norm}
    of_14 = Spec(RoIPooler, output_size=14, sampling_ratio=2 if pyramid else 0)
    mask = Spec(MaskHead, pooler=of_14, trunk="convs" if pyramid else "shared", **norm)
    stages = {} if pyramid else {"num_stages": 3, "out_indices": [2]}
    return RCNN(
        DetectionResNet(depth, frozen_stages=1, **stages, **style, **groups, **norm),
        DetectionFPN(**norm) if pyramid else None,
        rpn=Spec(
            RPN,
            anchors=Spec(Anchors, sizes=SIZES if pyramid else [sum(SIZES, ())]),
            pre_nms=(limits["pre_nms"],) * 2,
            post_nms=(limits["post_nms"],) * 2,
            batch_size_per_image=limits.get("rpn_batch", 256),
            min_size=0.0,
        ),
        box_head=Spec(MLPBoxHead, **heads) if pyramid else Spec(Res5BoxHead, **style, **groups, **heads),
        mask_head=mask if "mask" in name else None,
        keypoint_head=Spec(KeypointHead, pooler=of_14) if "keypoint" in name else None,
        num_classes=config["NUM_CLASSES"] - 1,
        convention=convention,  # type: ignore[arg-type]
        size_divisor=32 if pyramid else 1,
        output=Spec(
            Instances,
            score_threshold=config["SCORE_THRESH"],
            nms_threshold=config["TEST_NMS"],
            limit=limits.get("limit", 100),
        ),
    )


def _pooler(get: Mapping[str, Any], head: str) -> Spec[RoIPooler]:
    kind = get[f"{head}POOLER_TYPE"]
    return Spec(
        RoIPooler,
        output_size=get[f"{head}POOLER_RESOLUTION"],
        sampling_ratio=get[f"{head}POOLER_SAMPLING_RATIO"],
        aligned=kind == "ROIAlignV2",
        kind="pool" if kind == "ROIPool" else "align",
    )


def _norm(name: str) -> dict[str, Any] | None:
    if name == "GN":
        return {"type": "GN", "num_groups": 32}
    return {"type": {"FrozenBN": "FrozenBN", "BN": "BN", "SyncBN": "SyncBN"}[name]} if name else None
