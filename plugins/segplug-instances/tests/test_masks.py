"""Mask targets, and masks pasted into an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_parts import cases, check, load, random

from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.losses import mask_probabilities
from segplug_instances.mask_targets import mask_targets, polygons_of, rasterise
from segplug_instances.paste import paste, paste_one


def flat(polygons: list[list[list[float]]]) -> dict[str, torch.Tensor]:
    """Return nested lists of polygons as tensors."""
    parts = [(index, np.array(part).reshape(-1, 2)) for index, one in enumerate(polygons) for part in one]
    return {
        "points": torch.from_numpy(np.concatenate([points for _, points in parts])),
        "parts": torch.tensor([0, *np.cumsum([len(points) for _, points in parts])]),
        "objects": torch.tensor([index for index, _ in parts]),
    }


@cases("masks", "targets")
def test_mask_targets(name: str) -> None:
    case = load("masks")[name]
    size, polygons = tuple(case.params["image_hw"]), flat(case.params["polygons"])
    bitmaps = [rasterise(parts, size) for parts in polygons_of(polygons).values()]
    check(torch.from_numpy(np.stack(bitmaps)).bool(), case["bitmask"])
    boxes, index = case["boxes"], torch.arange(6)
    for side in (28, 14):
        check(mask_targets(polygons, boxes, index, side, DETECTRON2).bool(), case[f"targets_polygon_{side}"])
        check(mask_targets(case["bitmask"], boxes, index, side, DETECTRON2).bool(), case[f"targets_bitmask_{side}"])
    check(mask_targets(case["bitmask"], boxes, index, 28, TORCHVISION), case["tv_targets_28"])
    check(mask_targets(polygons, boxes, index, 28, TORCHVISION, size), case["tv_targets_28"])


@cases("d1_train", "mask_targets")
def test_mask_targets_of_detectron(name: str) -> None:
    case = load("d1_train")[name]
    polygons, size = flat(case.params["polygons"]), tuple(case.params["image_hw"])
    for side in (28, 14):
        found = mask_targets(polygons, case["boxes"], torch.arange(5), side, DETECTRON)
        check(found.to(torch.uint8), case[f"m{side}"])
    found = np.stack([rasterise(parts, size) for parts in polygons_of(polygons).values()])
    check(torch.from_numpy(found), case["full"])


def test_polygons_need_a_size_to_become_bitmaps() -> None:
    with pytest.raises(ValueError, match="convention torchvision"):
        mask_targets(flat([[[0, 0, 4, 0, 4, 4]]]), torch.zeros(1, 4), torch.zeros(1).long(), 7, TORCHVISION)


def test_an_object_without_a_polygon_has_an_empty_mask() -> None:
    polygons = flat([[], [[0, 0, 8, 0, 8, 8, 0, 8]]])
    boxes = torch.tensor([[0.0, 0, 8, 8]]).expand(2, 4)
    for convention in (DETECTRON2, TORCHVISION):
        found = mask_targets(polygons, boxes, torch.arange(2), 4, convention, (16, 16))
        assert (found.flatten(1).mean(1) > 0.8).tolist() == [False, True]


@cases("masks", "select")
def test_the_mask_of_the_class_is_chosen(name: str) -> None:
    case, classes = load("masks")[name], torch.tensor(load("masks")["loss"].params["classes"])
    found = mask_probabilities(random(133, 6, 3, 28, 28), classes)
    check(found.sum((1, 2)), torch.tensor(case.params["sums"]))
    check(found[:, 0, 5], torch.tensor(case.params["first_values"]))


@cases("masks", "paste")
def test_pasted_masks(name: str) -> None:
    case = load("masks")[name]
    size = tuple(case.params["image_hw"])
    for key, convention in {"d2": DETECTRON2, "tv": TORCHVISION}.items():
        check(paste(case["masks"], case["boxes"], size, convention), case[key])
        soft = torch.zeros(len(case["masks"]), *size)
        for row, (mask, box) in enumerate(zip(case["masks"], case["boxes"])):
            (top, left), values = paste_one(mask, box, size, convention)
            soft[row, top : top + values.shape[0], left : left + values.shape[1]] = values
        soft = soft[:, ::3, ::3]
        if key == "tv":
            check(soft, case["tv_soft"])
        else:
            assert ((soft * 255).to(torch.uint8).int() - case["d2_soft"].int()).abs().max() <= 1


@cases("d1_results", "paste")
def test_pasted_masks_of_detectron(name: str) -> None:
    case = load("d1_results")[name]
    found = paste(case["masks"], case["boxes"], tuple(case.params["image_hw"]), DETECTRON)
    check(found.to(torch.uint8), case["full"])


@pytest.mark.parametrize("convention", [DETECTRON, DETECTRON2, TORCHVISION])
@pytest.mark.parametrize("box", [[-30, -9, -3, -2], [60, 60, 80, 90], [5, 5, 5, 5], [-9, -9, 70, 70]])
def test_boxes_at_and_outside_the_border(convention: Any, box: list[float]) -> None:
    found = paste(torch.ones(1, 7, 7), torch.tensor([box]).float(), (32, 40), convention)
    assert found.shape == (1, 32, 40)
    assert found.float().mean() == (1 if box[2] == 70 else 0) or box == [5, 5, 5, 5]


def test_targets_are_the_same_in_mixed_precision() -> None:
    mask, boxes = torch.zeros(1, 60, 60, dtype=torch.uint8), torch.tensor([[3.3, 5.1, 51.7, 47.9]])
    mask[:, 11:40, 7:33] = 1
    wanted = mask_targets(mask, boxes, torch.zeros(1).long(), 28, TORCHVISION)
    with torch.autocast("cpu", torch.bfloat16):
        check(mask_targets(mask, boxes, torch.zeros(1).long(), 28, TORCHVISION), wanted)
