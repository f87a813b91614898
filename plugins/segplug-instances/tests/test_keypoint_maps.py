"""Keypoint targets, loss and decoding."""

from __future__ import annotations

import torch
from golden_parts import cases, check, load, random
from torch.nn.functional import interpolate

from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.keypoint_maps import (
    decode_keypoints,
    keypoint_loss,
    keypoint_targets,
    object_keypoint_similarity,
    oks_nms,
)
from segplug_instances.output import PERSON_PAIRS


def maps(count: int) -> torch.Tensor:
    """Return the heat maps of the recorded cases."""
    return interpolate(random(153, count, 17, 9, 9), (56, 56), mode="bicubic", align_corners=False) * 4


@cases("keypoints", "targets", "loss")
def test_targets_and_loss(name: str) -> None:
    case, targets = load("keypoints")[name], load("keypoints")["targets"]
    index, valid = keypoint_targets(targets["keypoints"], targets["boxes"], 56)
    if name == "targets":
        check(index, case["index"])
        check(valid, case["valid"].bool())
        return
    logits = random(152, 5, 17, 56, 56).requires_grad_()
    loss = keypoint_loss(logits, index, valid)
    for key in ("d2_by_visible", "tv"):
        check(loss, torch.tensor(case.params[key]))
    check(keypoint_loss(logits, index, valid, 100), torch.tensor(case.params["d2_normalizer_100"]))
    loss.backward()
    check(logits.grad.norm(), torch.tensor(case.params["grad_norm"]))


@cases("d1_train", "keypoint_targets_loss")
def test_targets_and_loss_of_detectron(name: str) -> None:
    case = load("d1_train")[name]
    index, valid = keypoint_targets(case["keypoints"].mT, case["boxes"], 56)
    check(index.int(), case["index"])
    check(valid.float(), case["weight"])
    logits = random(94, 4, 17, 56, 56)
    loss = keypoint_loss(logits, index, valid)
    check(loss, torch.tensor(case.params["loss"]))
    scaled = keypoint_loss(logits, index, valid, 2 * 512 * 0.25 * 17)
    check(scaled, torch.tensor(case.params["loss_not_normalized_by_visible"]))


@cases("keypoints", "decode")
def test_decoding(name: str) -> None:
    case = load("keypoints")[name]
    found, peaks = decode_keypoints(maps(5), case["boxes"], DETECTRON2)
    check(torch.cat([found[..., :2], peaks[..., None], found[..., 2:]], -1), case["d2"])
    check(found[..., 2], case["d2"][..., 3])
    found, peaks = decode_keypoints(maps(5), case["boxes"], TORCHVISION)
    check(found[..., :2], case["tv_xy"][..., :2])
    check(found[..., 2], case["tv_scores"])


@cases("d1_results", "keypoints")
def test_decoding_of_detectron(name: str) -> None:
    case = load("d1_results")[name]
    found, peaks = decode_keypoints(maps(4), case["boxes"], DETECTRON)
    x, y, logit, probability = case["out"].unbind(1)
    check(found[..., :2], torch.stack([x, y], -1))
    check(peaks, logit)
    check(found[..., 2], probability, 1e-5)


@cases("d1_results", "oks")
def test_similarity_of_objects(name: str) -> None:
    case = load("d1_results")[name]
    places = case["keypoints"][:, :2].mT
    width, height = (case["boxes"][:, 2:] - case["boxes"][:, :2] + 1).unbind(1)
    sigmas = torch.tensor(case.params["sigmas_times_10"]) / 10
    found = object_keypoint_similarity(places[:1], places, (width * height)[:1], sigmas)
    check(found[0], case["oks_row0"])
    kept = oks_nms(places, case["keypoints"][:, 2].mean(1), width * height, sigmas, 0.3)
    check(kept, case["nms_keep"])


@cases("d1_results", "flip")
def test_pairs_of_points_that_a_mirrored_image_swaps(name: str) -> None:
    assert [list(pair) for pair in PERSON_PAIRS] == load("d1_results")[name].params["pairs"]
