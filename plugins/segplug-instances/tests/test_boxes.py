"""Areas, IoU, coding and filters of boxes."""

from __future__ import annotations

import pytest
import torch
from golden_parts import cases, check, load

from segplug_instances import boxes
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION

BOTH = {"d2": DETECTRON2, "tv": TORCHVISION}


@cases("box_codec", "single_*")
def test_coding_is_that_of_detectron2_and_torchvision(name: str) -> None:
    case = load("box_codec")[name]
    weights = case.params["weights"]
    for prefix, convention in BOTH.items():
        check(boxes.encode(case["dst"], case["src"], weights, convention), case[f"{prefix}_encode"])
        check(boxes.decode(case["deltas"], case["src"], weights, convention), case[f"{prefix}_decode"])


@cases("box_codec", "per_class_*")
def test_deltas_of_all_classes_are_decoded_at_once(name: str) -> None:
    case = load("box_codec")[name]
    found = boxes.decode(case["deltas"], case["src"], case.params["weights"], TORCHVISION)
    check(found, case["d2_decode"])
    check(found.unflatten(1, (-1, 4)), case["tv_decode"])


@cases("box_codec", "clip", "min_size_edges")
def test_boxes_are_cut_and_filtered_by_each_rule(name: str) -> None:
    case = load("box_codec")[name]
    cut = case["boxes"]
    if name == "clip":
        for prefix, convention in BOTH.items():
            cut = boxes.clip(case["boxes"], case.params["image_size_hw"], convention)
            check(cut, case[prefix])
        check(boxes.large_enough(cut, 0, DETECTRON2), case["d2_nonempty_0"])
    check(boxes.large_enough(cut, 5, DETECTRON2), case["d2_nonempty_5"])
    check(boxes.large_enough(cut, 5, TORCHVISION).nonzero()[:, 0], case["tv_keep_small_5"])


@cases("d1_boxes", "codec_*")
def test_coding_is_that_of_detectron(name: str) -> None:
    case = load("d1_boxes")[name]
    weights = case.params["weights"]
    check(boxes.encode(case["dst"], case["src"], weights, DETECTRON), case["encode"])
    check(boxes.decode(case["deltas"], case["src"], weights, DETECTRON), case["decode"])
    deltas = torch.cat([case["deltas"][:10] * scale for scale in (1, 0.5, 2)], 1)
    check(boxes.decode(deltas, case["src"][:10], weights, DETECTRON), case["decode_per_class"])


@cases("d1_boxes", "clip", "xywh", "iou")
def test_detectron_counts_the_last_pixel(name: str) -> None:
    case = load("d1_boxes")[name]
    if name == "clip":
        cut = boxes.clip(case["boxes"], case.params["image_size_hw"], DETECTRON)
        check(cut, case["tiled"])
        check(cut, case["image"])
    elif name == "xywh":
        check(torch.stack(boxes.sides(case["xyxy"], DETECTRON), 1), case["xywh"][:, 2:])
        check(boxes.expand(case["xyxy"], 30 / 28), case["expand_30_28"])
    else:
        check(boxes.iou(case["a"], case["b"], DETECTRON), case["iou"])


@cases("iou_nms", "iou_*")
def test_iou(name: str) -> None:
    case = load("iou_nms")[name]
    for prefix, convention in BOTH.items():
        check(boxes.iou(case["a"], case["b"], convention), case[prefix])


def test_iou_of_boxes_without_area_is_zero() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert boxes.iou(point, point, TORCHVISION) == 0
    assert boxes.iou(point, point, DETECTRON) == 1


@pytest.mark.parametrize("convention", [DETECTRON, TORCHVISION])
def test_boxes_of_a_sample_keep_their_area_in_each_convention(convention: boxes.Convention) -> None:
    outer = torch.tensor([[2.0, 3, 7, 9]])
    inner = boxes.to_convention(outer, convention)
    assert boxes.area(inner, convention) == 30
    assert torch.equal(boxes.from_convention(inner, convention), outer)


def test_deltas_of_half_precision_give_boxes_of_single_precision() -> None:
    anchors, deltas = torch.tensor([[1000.0, 500, 1101, 601]]), torch.full((1, 4), 0.125)
    found = boxes.decode(deltas.half(), anchors, (1, 1, 1, 1), TORCHVISION)
    check(found, boxes.decode(deltas, anchors, (1, 1, 1, 1), TORCHVISION))
