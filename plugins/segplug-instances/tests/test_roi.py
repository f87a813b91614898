"""RoIAlign, RoIPool, RoICrop, and the choice of a level."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_parts import cases, check, load, random
from torch.nn.functional import grid_sample, max_pool2d

from segplug_instances import roi
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.roi import RoIPooler, assign_levels, roi_align, roi_crop, roi_pool


@cases("roi_pooling", "align_*", "pool_*")
def test_pooled_features_and_their_gradient(name: str) -> None:
    case = load("roi_pooling")[name]
    features = random(31, 2, 4, 20, 24).requires_grad_()
    size, scale = tuple(case.params["output"]), case.params["spatial_scale"]
    if name.startswith("align"):
        found = roi_align(features, case["rois"], size, scale, case.params["sampling_ratio"], case.params["aligned"])
    else:
        found = roi_pool(features, case["rois"], size, scale)
    step = 4 // case["out"].shape[1]
    check(found[:, ::step], case["out"])
    (found * random(99, *found.shape)).sum().backward()
    check(features.grad[:, :: 4 // case["grad"].shape[1]], case["grad"])


@cases("levels", "assign")
def test_levels_of_boxes(name: str) -> None:
    case = load("levels")[name]
    for prefix, convention in {"d2": DETECTRON2, "tv": TORCHVISION}.items():
        check(assign_levels(case["boxes"], 2, 5, convention) - 2, case[prefix])


@cases("d1_boxes", "levels")
def test_levels_of_boxes_by_detectron(name: str) -> None:
    case = load("d1_boxes")[name]
    check(assign_levels(case["boxes"], 2, 5, DETECTRON), case["levels"].long())


@cases("levels", "pooler_*", "large_*")
def test_pooling_over_levels(name: str) -> None:
    case = load("levels")[name]
    sizes, seed = [(32, 40), (16, 20), (8, 10), (4, 5)], 36
    if name.startswith("large"):
        sizes, seed = [(128, 160), (64, 80), (32, 40), (16, 20)], 46
    features = [random(seed + level, 2, 2, *size) for level, size in enumerate(sizes)]
    params = case.params
    convention = "torchvision" if name.endswith("tv") else "detectron2"
    pooler = RoIPooler(7, (4, 8, 16, 32), params["sampling_ratio"], "align", params["aligned"], convention)
    check(pooler(features, [case["boxes0"], case["boxes1"]]), case["out"])


@cases("d1_results", "fpn_pool_*")
def test_pooling_over_levels_by_detectron(name: str) -> None:
    case = load("d1_results")[name]
    sizes = [(128, 160), (64, 80), (32, 40), (16, 20)]
    features = [random(46 + level, 2, 2, *size) for level, size in enumerate(sizes)]
    pooler = RoIPooler(7, (4, 8, 16, 32), case.params["sampling_ratio"], convention="detectron")
    rois = case["rois"]
    order = rois[:, 0].argsort(stable=True)
    found = pooler(features, [rois[rois[:, 0] == image, 1:] for image in (0, 1)])
    check(found, case["out"][order])


@pytest.mark.parametrize("max_pool", [False, True])
def test_a_crop_is_sampled_between_the_corners(max_pool: bool) -> None:
    features, points = random(0, 2, 3, 9, 12), 10 if max_pool else 5
    rois = torch.tensor([[0, 4.0, 6, 40, 30], [1, -20, 3, 60, 50]])
    found = roi_crop(features, rois, 5, 0.25, max_pool)
    grid = rois[:, 1:].unflatten(1, (2, 2)) * 0.25 / torch.tensor([11, 8]) * 2 - 1
    x, y = (torch.stack([torch.linspace(*each, points) for each in grid[..., axis].tolist()]) for axis in (0, 1))
    grid = torch.stack([x[:, None].expand(-1, points, -1), y[:, :, None].expand(-1, -1, points)], -1)
    wanted = grid_sample(features, grid, align_corners=True)
    check(found, max_pool2d(wanted, 2) if max_pool else wanted)


def test_many_regions_are_pooled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features, rois = random(0, 1, 3, 16, 16), torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) * 16
    rois[:, 0] = 0
    rois[:, 3:] += rois[:, 1:3]
    for pool in (roi_align, roi_pool, roi_crop):
        monkeypatch.setattr(roi, "_MOST_POSITIONS", 1 << 21)
        wanted = pool(features, rois, 7)
        monkeypatch.setattr(roi, "_MOST_POSITIONS", 3000)
        assert torch.equal(pool(features, rois, 7), wanted)


@pytest.mark.parametrize("pool", [roi_align, roi_pool, roi_crop])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_features_of_other_types_and_no_regions(pool: Any, dtype: torch.dtype) -> None:
    features, rois = random(0, 1, 3, 16, 16).to(dtype), torch.tensor([[0, 1.5, 2, 9, 14.5]])
    found = pool(features, rois, (4, 3))
    assert found.dtype == dtype
    check(found.float(), pool(features.float(), rois, (4, 3)), 4e-3)
    assert pool(features, rois[:0], (4, 3)).shape == (0, 3, 4, 3)


@pytest.mark.parametrize("aligned", [False, True])
def test_one_plane_is_pooled_by_products_of_matrices(aligned: bool) -> None:
    plane = random(0, 40, 50)
    boxes = torch.tensor([[3.2, 4, 30, 39.5], [-5, -6, 70, 60], [10, 10, 10, 10], [60, 3, 80, 9], [7, 8, 8.5, 33]])
    rois = torch.cat([torch.zeros(5, 1), boxes], 1)
    found = roi.align_plane(plane, boxes, 7, aligned)
    check(found, roi_align(plane[None, None], rois, 7, 1.0, 0, aligned)[:, 0])
