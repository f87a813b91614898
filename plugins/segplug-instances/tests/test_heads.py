"""Heads on pooled features, and RPNs on feature maps, against Detectron.pytorch."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RECORDED
from reference_models import SIZES
from torch import Tensor, nn

from segkernel.interfaces.spec import Spec
from segplug_instances import RPN, Anchors, KeypointHead, MaskHead, MLPBoxHead, Res5BoxHead
from segplug_instances.weight_formats.detectron import DetectronBlobs

FILE = RECORDED / "models" / "dpt_heads.json"
NAMES = [case["name"] for case in json.loads(FILE.read_text("utf-8"))["cases"]] if FILE.exists() else []


@pytest.mark.parametrize("name", [name for name in NAMES if "rpn" not in name])
def test_heads_give_detectrons_outputs(golden: Any, name: str) -> None:
    params, arrays = load_case(golden, name)
    head = head_of(name, params)
    keys = params["keys"] | params["output_keys"]
    fill(golden, head, {blob: shape for blob, shape in keys.values() if blob})
    with torch.no_grad():
        features, outputs = run(head, drawn(params["input"]))
    got = {"features": features[:, ::16] if features.ndim == 2 else features[:, ::32, ::2, ::2], **outputs}
    errors = {key: golden.error(value.numpy(), recorded(key, arrays[key])) for key, value in got.items()}
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("name", [name for name in NAMES if "rpn" in name])
def test_rpns_give_detectrons_proposals(golden: Any, name: str) -> None:
    params, arrays = load_case(golden, name)
    shapes = [tuple(map(int, each)) for each in re.findall(r"\((\d+), (\d+)\)", params["features"])]
    seed, channels = int(re.search(r"RandomState\((\d+)", params["features"])[1]), shape_of(params["features"])[1]  # type: ignore[index]
    maps = [
        torch.from_numpy(np.random.RandomState(seed + level).standard_normal((1, channels, *shape)).astype(np.float32))
        for level, shape in enumerate(shapes)
    ]
    pyramid = len(maps) > 1
    rpn = RPN(
        channels,
        strides=(4, 8, 16, 32, 64) if pyramid else (16,),
        anchors=Spec(Anchors, sizes=SIZES if pyramid else [sum(SIZES, ())]),
        channels=params["keys"][conv_key(params["keys"])][1][0],
        softmax="softmax" in name,
        pre_nms=(params["pre_nms"],) * 2,
        post_nms=(params["post_nms"],) * 2,
        min_size=0.0,
        convention="detectron_pytorch",
    ).eval()
    fill(golden, rpn, dict(params["keys"].values()))
    features, size = maps[::-1], tuple(params["im_info"][:2])
    with torch.no_grad():
        outputs = rpn(features)
        ((boxes, _),) = rpn.propose(features, [size], size)
    got = {"rois": boxes}
    for level, pair in enumerate(outputs):
        suffix = f"_fpn{level + 2}" if pyramid else ""
        got |= {f"{key}{suffix}": value for key, value in zip(("rpn_cls_logits", "rpn_bbox_pred"), pair)}
    wanted = arrays | {"rois": arrays["rois"][:, 1:]}
    got = {key: value[..., ::2, ::2] if value.numel() > 5000 else value for key, value in got.items()}
    errors = {key: golden.error(value.numpy(), wanted[key]) for key, value in got.items()}
    assert max(errors.values()) <= 1e-4, errors


def conv_key(keys: dict[str, Any]) -> str:
    return next(key for key in keys if key.endswith("RPN_conv.weight"))


def load_case(golden: Any, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    facts, arrays = golden.load("models/dpt_heads")
    params, _, outputs = golden.case(facts, arrays, name)
    return params, outputs


def head_of(name: str, params: dict[str, Any]) -> nn.Module:
    """Return the head of a name of Detectron's."""
    options = params["overrides"]
    norm = {"norm_cfg": {"type": "GN", "num_groups": 32}} if "gn" in name else {}
    common: dict[str, Any] = {"convention": "detectron"}
    if "conv5" in name:
        return Res5BoxHead(style="caffe", **common)
    if "2mlp" in name:
        return MLPBoxHead(**common)
    if "Xconv1fc" in name:
        return MLPBoxHead(num_convs=4, num_fcs=1, **norm, **common)
    if "pose" in name:
        dims = {"num_convs": options["KRCNN.NUM_STACKED_CONVS"], "channels": options["KRCNN.CONV_HEAD_DIM"]}
        return KeypointHead(**dims, **common)
    if "v0up" in name:
        return MaskHead(1024, trunk="res5", style="caffe", dilation=options["MRCNN.DILATION"], **common)
    convs = 4 if "4convs" in name else 2
    return MaskHead(num_convs=convs, dilation=options["MRCNN.DILATION"], **norm, **common)


def fill(golden: Any, head: nn.Module, shapes: dict[str, Any]) -> None:
    blobs = golden.fill_blobs({blob: {"shape": shape} for blob, shape in shapes.items()})
    head.load_state_dict(DetectronBlobs().convert(head.eval(), blobs), strict=True)


def run(head: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what comes before the last layers, and the outputs as they were stored."""
    if isinstance(head, MaskHead):
        before = head.upsample(getattr(head, head.trunk_name)(x)).relu()
        return before, {"out": head(x).sigmoid()[:, 3::4, ::2, ::2]}
    if isinstance(head, KeypointHead):
        return head.convs(x), {"out": head(x)[:, ::3, ::2, ::2]}
    before = head.trunk(x)
    logits, deltas = head.classify(before)
    if before.ndim == 4:
        before = before.mean((2, 3), keepdim=True)
    scores = logits.softmax(1).roll(1, 1)
    return before, {"cls_prob": scores, "bbox_pred": deltas}


def recorded(key: str, value: np.ndarray) -> np.ndarray:
    """Return a stored output without the background."""
    if key == "out" and value.shape[1] == 21:
        return value[:, 1:]
    return value[:, 4:] if key == "bbox_pred" else value


def drawn(recipe: str) -> Tensor:
    seed = int(re.search(r"RandomState\((\d+)\)", recipe)[1])  # type: ignore[index]
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape_of(recipe)).astype(np.float32))


def shape_of(recipe: str) -> tuple[int, ...]:
    found = re.search(r"standard_normal\(\(([\d,hw]+)\)\)", recipe)[1]  # type: ignore[index]
    return tuple(int(side) for side in found.split(",") if side.isdigit())
