"""Anchors, their targets, and proposals."""

from __future__ import annotations

import pytest
import torch
from golden_parts import cases, check, load

from segplug_instances import matching
from segplug_instances.anchors import Anchors, cell_anchors
from segplug_instances.box_head import MLPBoxHead
from segplug_instances.boxes import decode, encode, iou
from segplug_instances.conventions import DETECTRON, DETECTRON2, DETECTRON_PYTORCH, TORCHVISION, Convention
from segplug_instances.ground_truth import GroundTruth
from segplug_instances.matching import match, match_anchors, sample
from segplug_instances.proposals import add_ground_truth, limit_over_batch, select


@cases("anchors", "*")
def test_anchors(name: str) -> None:
    case = load("anchors")[name]
    params, convention = case.params, DETECTRON2 if name.startswith("d2") else TORCHVISION
    shapes = [tuple(shape) for shape in params["feature_sizes"]]
    sizes, ratios = params["sizes"], params["ratios"]
    if not isinstance(sizes[0], list):
        sizes = [[size] for size in sizes] if len(shapes) > 1 else [sizes]
    ratios = ratios[0] if isinstance(ratios[0], list) else ratios
    anchors = Anchors(sizes, ratios, convention.name, params.get("offset", 0.0))
    for level, size in enumerate(sizes):
        check(cell_anchors(size, ratios, (1, 1), convention), case[f"cell_{level}"])
    if "strides_used" in params:
        padded = {"128x160": (128, 160), "97x141": (97, 141)}[name.rpartition("_")[2]]
        strides = [(padded[0] // height, padded[1] // width) for height, width in shapes]
        assert strides == [tuple(pair) for pair in params["strides_used"]]
    else:
        strides = [(stride, stride) for stride in params.get("strides", [16])]
    for level, found in enumerate(anchors(shapes, strides)):
        check(found, case[f"level_{level}"])


@cases("d1_anchors", "*")
def test_anchors_of_detectron(name: str) -> None:
    case = load("d1_anchors")[name]
    stride, sizes = case.params["stride"], case.params["sizes"]
    anchors = Anchors([sizes], case.params.get("ratios", (0.5, 1, 2)), "detectron")
    if name == "field":
        check(anchors([tuple(case.params["feature"])], [(stride, stride)])[0], case["all"])
    else:
        check(anchors([(1, 1)], [(stride, stride)])[0], case["cell"])


@cases("matching", "d2_rpn*", "tv_rpn*", "d2_roi*", "tv_roi*", "d2_edges", "d2_no_gt")
def test_matching(name: str) -> None:
    case = load("matching")[name]
    params = case.params
    thresholds = params.get("thresholds") or [params["low"], params["high"]]
    if name == "d2_no_gt":
        quality = torch.zeros(0, len(case["matches"]))
    else:
        quality = case["quality"] if name == "d2_edges" else iou(case["gt"], case["anchors"], TORCHVISION)
    low_quality = params.get("allow_low_quality_matches", False)
    index, labels = match(quality, thresholds[0], thresholds[-1], low_quality)
    as_torchvision = torch.where(labels == 1, index, torch.where(labels == 0, -1, -2))
    if name.startswith("tv"):
        check(as_torchvision, case["matches"])
    else:
        check(index, case["matches"])
        check(labels, case["labels"])
    if name == "d2_edges":
        check(as_torchvision, case["tv"])


@cases("matching", "sample_*")
def test_numbers_of_sampled_boxes(name: str) -> None:
    case = load("matching")[name]
    labels = case["labels"]
    positive, negative = sample(labels, case.params["num"], case.params["positive_fraction"])
    assert (len(positive), len(negative)) == (case.params["n_pos"], case.params["n_neg"])
    assert (labels[positive] == 1).all()
    assert (labels[negative] == 0).all()
    assert len({*positive.tolist(), *negative.tolist()}) == len(positive) + len(negative)


@cases("proposals", "d2_*", "tv_*")
def test_proposals(name: str) -> None:
    case, inputs = load("proposals")[name], load("proposals")["inputs"]
    params, convention = case.params, DETECTRON2 if name.startswith("d2") else TORCHVISION
    logits, boxes = ([inputs[f"{kind}_{level}"] for level in range(3)] for kind in ("logits", "boxes"))
    pre, post = (params.get(f"{kind}_nms_topk") or params[f"{kind}_nms_top_n"] for kind in ("pre", "post"))
    least = params["min_box_size" if name.startswith("d2") else "min_size"]
    sizes = [tuple(size) for size in inputs.params["image_sizes_hw"]]
    found = select(logits, boxes, sizes, pre, post, params["nms"], least, convention)
    for image, (each, scores) in enumerate(found):
        check(each, case[f"boxes_{image}"])
        if name.startswith("d2"):
            check(scores, case[f"logits_{image}"])
        else:
            check(scores.sigmoid(), case[f"scores_{image}"])


@cases("proposals", "append_gt")
def test_ground_truth_among_proposals(name: str) -> None:
    case = load("proposals")[name]
    boxes, logits = case["boxes"], case["logits"]
    found = add_ground_truth(boxes[:5], logits[:5], boxes[5:], DETECTRON2)
    check(found[0], boxes)
    check(found[1], logits)
    first = add_ground_truth(boxes[:5], logits[:5], boxes[5:], DETECTRON)[0]
    check(first, torch.cat([boxes[5:], boxes[:5]]))


@cases("d1_proposals", "pre*", "detectron_*")
def test_proposals_of_detectron(name: str) -> None:
    case, first = load("d1_proposals")[name], load("d1_proposals")["pre6000_post1000_min0"]
    inputs = first if name.startswith("detectron") else case
    params, setting = first.params, case.params
    anchors = Anchors([params["sizes"]], params["ratios"], "detectron")
    height, width = inputs["probs"].shape[2:]
    field = anchors([(height, width)], [(params["stride"], params["stride"])])[0]
    logits = inputs["probs"].permute(0, 2, 3, 1).flatten(1).logit()
    deltas = inputs["deltas"].unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    size, scale = case["im_info"][0, :2].tolist(), float(case["im_info"][0, 2])

    def proposals(convention: Convention) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = decode(deltas[0], field, (1, 1, 1, 1), convention)[None]
        limits = setting["pre_nms"], setting["post_nms"], 0.7, setting["min_size"]
        return select([logits], [boxes], [tuple(map(int, size))], *limits, convention, scales=[scale])[0]

    if name.startswith("detectron"):
        boxes, scores = proposals(DETECTRON)
        check(proposals(DETECTRON_PYTORCH)[0], case["rois_pytorch"][:, 1:])
    else:
        boxes, scores = proposals(DETECTRON_PYTORCH)
    check(boxes, case["rois"][:, 1:])
    check(scores.sigmoid(), case["scores"][:, 0])


@cases("d1_proposals", "collect")
def test_detectron_limits_proposals_over_the_batch(name: str) -> None:
    case = load("d1_proposals")[name]
    rois, scores = (torch.cat([case[f"{kind}_{level}"] for level in range(3)]) for kind in ("rois", "scores"))
    images = [rois[:, 0] == image for image in (0, 1)]
    order = scores[:, 0].argsort(descending=True)
    found = [(rois[order][of[order], 1:], scores[order][of[order], 0]) for of in images]
    for image, (boxes, _) in enumerate(limit_over_batch(found, case.params["post_nms"])):
        check(boxes, case["rois"][case["rois"][:, 0] == image, 1:])


@cases("d1_train", "rpn_blobs*")
def test_targets_of_anchors_by_detectron(name: str) -> None:
    case, params = load("d1_train")[name], load("d1_train")["rpn_blobs"].params
    kinds = ("labels_int32", "bbox_targets", "bbox_inside_weights", "bbox_outside_weights")
    stored, targets, inside, outside = (
        case[f"rpn_{kind}_wide"][0].unflatten(0, (6, -1)).permute(2, 3, 0, 1).flatten(0, 2) for kind in kinds
    )
    stored = stored[:, 0]
    anchors = Anchors([params["sizes"]], params["ratios"], "detectron")([(8, 8)], [(16, 16)])[0]
    index, labels = match_anchors(anchors, case["gt"], tuple(params["image_hw"]), 0.3, 0.7, DETECTRON)
    encoded = encode(case["gt"][index], anchors, (1, 1, 1, 1), DETECTRON)
    check(targets, encoded * (targets != 0).any(1, keepdim=True))
    assert (targets[stored == 1] != 0).any(1).all()
    check(inside[:, 0], (stored == 1).float())
    check(outside[:, 0], (stored >= 0).float() / (stored >= 0).sum())
    assert (labels[stored == 1] == 1).all()
    assert (labels[stored == 0] == 0).all()
    if name != "rpn_blobs":  # there is nothing to draw
        convention = DETECTRON if name.endswith("detectron") else DETECTRON_PYTORCH
        positive, negative = sample(labels, 256, 0.5, True, convention.scarce_negatives)
        assert torch.equal(positive, (stored == 1).nonzero()[:, 0])
        assert torch.equal(negative, (stored == 0).nonzero()[:, 0])


def test_negatives_drawn_with_replacement_are_fewer() -> None:
    torch.manual_seed(0)
    _, negative = sample(torch.zeros(40).long(), 30, 0.5, replacement=True)
    assert 10 < len(negative) < 30
    assert len(negative.unique()) == len(negative)


@pytest.mark.parametrize("replacement", [False, True])
def test_a_seed_fixes_the_sample_and_another_box_changes_little_of_it(replacement: bool) -> None:
    def draw(labels: torch.Tensor, seed: int) -> set[int]:
        found = sample(labels, 40, 0.5, replacement, generator=torch.Generator().manual_seed(seed))
        return set(torch.cat(found).tolist())

    labels = (torch.arange(200) % 4 == 0).long()
    assert draw(labels, 3) == draw(labels, 3) != draw(labels, 4)
    if not replacement:
        assert len(draw(labels, 3) ^ draw(torch.cat([labels, labels.new_zeros(1)]), 3)) <= 2


def test_many_objects_are_compared_with_proposals_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(60, 4, generator=draw) * 40
    boxes[:, 2:] += boxes[:, :2]
    head = MLPBoxHead(in_channels=2, fc_channels=2, num_classes=1, crowd_overlap=0.7)
    truth = GroundTruth(boxes[:9], torch.zeros(9).long(), torch.arange(9), (90, 90), boxes[9:12])
    whole = head.match(boxes, truth)
    assert {*whole[1].tolist()} == {-1, 0, 1}
    monkeypatch.setattr(matching, "_MOST_PAIRS", 50)
    for got, wanted in zip(head.match(boxes, truth), whole):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("convention", [DETECTRON, TORCHVISION])
def test_many_pairs_are_matched_in_parts(convention: Convention, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    truth, anchors = torch.rand(7, 4, generator=draw) * 40, torch.rand(300, 4, generator=draw) * 60 - 5
    for boxes in (truth, anchors):
        boxes[:, 2:] += boxes[:, :2]
    arguments = anchors, truth, (80, 80), 0.3, 0.7, convention
    whole = match_anchors(*arguments)
    monkeypatch.setattr(matching, "_MOST_PAIRS", 500)
    for got, wanted in zip(match_anchors(*arguments), whole):
        assert torch.equal(got, wanted)
    assert {*whole[1].tolist()} == {-1, 0, 1}
    index, labels = match_anchors(anchors, truth[:0], (80, 80), 0.3, 0.7, convention)
    assert not index.any()
    assert (labels <= 0).all()
