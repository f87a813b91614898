"""NMS, soft-NMS and box voting."""

from __future__ import annotations

import torch
from golden_parts import cases, check, load

from segplug_instances.boxes import iou
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.nms import batched_nms, nms


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
