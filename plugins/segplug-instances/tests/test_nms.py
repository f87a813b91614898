"""NMS, soft-NMS and box voting."""

from __future__ import annotations

import pytest
import torch
from golden_parts import cases, check, load

from segplug_instances.boxes import iou
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.nms import batched_nms, box_voting, nms, soft_nms


@cases("iou_nms", "nms_*", "ties_*", "edges_*", "empty")
def test_nms_keeps_the_boxes_of_torchvision(name: str) -> None:
    case = load("iou_nms")[name]
    for convention in (TORCHVISION, DETECTRON2):
        check(nms(case["boxes"], case["scores"], case.params.get("threshold", 0.5), convention), case["keep"])


@cases("iou_nms", "batched_*", "empty")
def test_batched_nms_keeps_the_boxes_of_torchvision(name: str) -> None:
    case = load("iou_nms")[name]
    groups = case["groups"] if name != "empty" else torch.zeros(0, dtype=torch.long)
    found = batched_nms(case["boxes"], case["scores"], groups, case.params.get("threshold", 0.5), TORCHVISION)
    check(found, case["batched_keep" if name == "empty" else "keep"])


@cases("d1_boxes", "nms_*")
def test_nms_keeps_the_boxes_of_detectron(name: str) -> None:
    case = load("d1_boxes")[name]
    boxes, scores = case["dets"].split([4, 1], 1)
    check(nms(boxes, scores[:, 0], case.params["threshold"], DETECTRON), case["keep"])


def test_many_boxes_in_groups_are_kept_as_by_comparing_pairs() -> None:
    torch.manual_seed(0)
    corners = torch.rand(1100, 2) * 60
    boxes = torch.cat([corners, corners + torch.rand(1100, 2) * 30], 1)
    scores, groups = torch.rand(1100), torch.randint(3, (1100,))
    order, kept = scores.argsort(descending=True).tolist(), list[int]()
    overlaps = (iou(boxes, boxes, TORCHVISION) > 0.4) & (groups[:, None] == groups)
    for row in order:
        if not overlaps[row, kept].any():
            kept.append(row)
    assert batched_nms(boxes, scores, groups, 0.4, TORCHVISION).tolist() == kept
    found = torch.cat([(groups == g).nonzero()[:, 0][nms(boxes[groups == g], scores[groups == g], 0.4, TORCHVISION)]
                       for g in range(3)])  # fmt: skip
    assert sorted(found.tolist()) == sorted(kept)


def test_a_block_of_boxes_may_be_dropped_as_a_whole() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(600, 1)
    assert nms(boxes, torch.linspace(1, 0, 600), 0.5, TORCHVISION).tolist() == [0]


@cases("d1_boxes", "soft_nms_*")
def test_soft_nms(name: str) -> None:
    case = load("d1_boxes")[name]
    boxes, scores = case["dets"].split([4, 1], 1)
    params = case.params
    kept, lowered = soft_nms(
        boxes, scores[:, 0], params["overlap_thresh"], DETECTRON,
        params["method"], params["sigma"], params["score_thresh"],
    )  # fmt: skip
    check(kept, case["keep"])
    check(torch.cat([boxes[kept], lowered[:, None]], 1), case["dets_out"])


@cases("d1_boxes", "box_voting_*")
def test_box_voting(name: str) -> None:
    case, all_boxes = load("d1_boxes")[name], load("d1_boxes")["nms_t0.5"]["dets"]
    params, kept = case.params, load("d1_boxes")["nms_t0.5"]["keep"]
    (every, scores), (boxes, best) = (each.split([4, 1], 1) for each in (all_boxes, all_boxes[kept]))
    voted, found = box_voting(
        boxes, best[:, 0], every, scores[:, 0], params["threshold"], DETECTRON,
        params["scoring_method"].lower(), params["beta"],
    )  # fmt: skip
    check(torch.cat([voted, found[:, None]], 1), case["out"])


def test_averages_of_votes() -> None:
    box, scores = torch.tensor([[0.0, 0, 9, 9]]).expand(2, 4), torch.tensor([0.9, 0.4])
    arguments = box[:1], scores[:1], box, scores, 0.5, TORCHVISION
    assert box_voting(*arguments, "generalized_avg", 2)[1].item() == pytest.approx(((0.81 + 0.16) / 2) ** 0.5)
    sharp = (0.81 / (0.81 + 0.01) + 0.16 / (0.16 + 0.36)) / 2
    assert box_voting(*arguments, "temp_avg", 0.5)[1].item() == pytest.approx(sharp)
