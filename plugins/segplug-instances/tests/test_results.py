"""Detections of an image."""

from __future__ import annotations

import pytest
import torch
from golden_parts import cases, check, load

from segplug_instances.boxes import decode, iou
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.results import detections


@cases("box_post", "d2_*")
def test_detections_of_detectron2(name: str) -> None:
    case, inputs = load("box_post")[name], load("box_post")[f"d2_{name[-1]}"]
    params, boxes = inputs.params, inputs["boxes"].unflatten(1, (-1, 4))
    boxes = boxes[:, :1] if "agnostic" in name else boxes
    limits = params["score_thresh"], params["nms_thresh"], params["topk"]
    found = detections(boxes, inputs["scores"], tuple(params["image_hw"]), *limits, DETECTRON2)
    for each, key in zip(found, ("boxes", "scores", "classes", "rows")):
        check(each, case[f"out_{key}"])


@cases("box_post", "tv_*")
def test_detections_of_torchvision(name: str) -> None:
    case = load("box_post")[name]
    params = case.params
    boxes = decode(case["deltas"][:, 4:], case["proposals"], (10, 10, 5, 5), TORCHVISION).unflatten(1, (-1, 4))
    scores = case["logits"].softmax(1).roll(-1, 1)
    limits = params["score_thresh"], params["nms_thresh"], params["detections_per_img"]
    found = detections(boxes, scores, tuple(params["image_hw"]), *limits, TORCHVISION)
    check(found[0], case["boxes"])
    check(found[1], case["scores"])
    check(found[2] + 1, case["labels"])


@cases("d1_results", "box_results_*")
def test_detections_of_detectron(name: str) -> None:
    case = load("d1_results")[name]
    params, boxes = case.params, case["boxes"].unflatten(1, (-1, 4))[:, 1:]
    limits = params["score_thresh"], params["nms"], params["detections_per_im"]
    found = detections(boxes, case["scores"].roll(-1, 1), (1000, 1000), *limits, DETECTRON)
    check(found[0], case["out_boxes"])
    check(found[1], case["out_scores"])
    check(found[2] + 1, case["out_classes"])


def test_detectron_keeps_equal_scores_beyond_the_limit() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])[:, None]
    scores = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]])
    for convention, kept in ((DETECTRON, [0, 1, 2]), (TORCHVISION, [2, 0])):
        assert detections(boxes, scores, (60, 60), 0.05, 0.5, 2, convention)[3].tolist() == kept


def test_soft_nms_and_box_voting_act_inside_a_class() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 11]])[:, None]
    scores = torch.tensor([[0.9, 0.0, 0.1], [0.8, 0.0, 0.2], [0.0, 0.7, 0.3]])
    limits = (50, 50), 0.05, 0.5, 10
    for convention in (DETECTRON2, DETECTRON):
        plain = detections(boxes, scores, *limits, convention)
        assert plain[3].tolist() == [0, 2]
        soft = detections(boxes, scores, *limits, convention, soft={"method": "linear"})
        assert sorted(soft[3].tolist()) == [0, 1, 2]
        overlap = iou(boxes[0], boxes[1], convention)[0, 0]
        assert soft[1].min().item() == pytest.approx(0.8 * (1 - overlap.item()))
        voted = detections(boxes, scores, *limits, convention, voting={"scoring": "avg"})
        assert voted[0][0].tolist() == pytest.approx([0, 0, 10, (9 + 9.6) / 1.7], abs=1e-5)
        assert voted[1].tolist() == pytest.approx([0.85, 0.7])
        assert torch.equal(voted[0][1], boxes[2, 0])
