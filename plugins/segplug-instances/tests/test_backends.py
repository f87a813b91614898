"""Triton's kernels, in its interpreter without a GPU, and the use of torchvision's operators."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from golden_parts import cases, check, load, random
from torch import Tensor

from segplug_instances import backends, roi
from segplug_instances.conventions import DETECTRON, TORCHVISION
from segplug_instances.nms import kept_boxes, least_dropped, nms

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def kernels() -> Any:
    pytest.importorskip("triton", "3.2", reason="needs Triton 3.2, whose interpreter knows constants")
    from segplug_instances import triton_ops

    return triton_ops


def test_kernels_agree_with_torch(kernels: Any) -> None:
    backends.compare_triton(kernels, DEVICE)


@cases("roi_pooling", "align_s1_a1_sr2_o2x3")
def test_kernel_of_roi_align(kernels: Any, name: str) -> None:
    case = load("roi_pooling")[name]
    params, features = case.params, random(31, 2, 4, 20, 24).to(DEVICE).requires_grad_()
    arguments = tuple(params["output"]), params["spatial_scale"], params["sampling_ratio"], params["aligned"]
    found = roi.align(features, case["rois"].to(DEVICE), *arguments, kernels)
    check(found[:, :: 4 // case["out"].shape[1]].cpu(), case["out"])
    (found * random(99, *found.shape).to(DEVICE)).sum().backward()
    check(features.grad[:, :: 4 // case["grad"].shape[1]].cpu(), case["grad"])


@cases("iou_nms", "nms_1_t0.5", "ties_1", "edges*", "empty")
def test_kernel_of_nms(kernels: Any, name: str) -> None:
    case = load("iou_nms")[name]
    order = case["scores"].argsort(descending=True, stable=True)
    limit = least_dropped(case.params.get("threshold", 0.5), TORCHVISION)
    kept = kernels.kept_boxes(case["boxes"][order].to(DEVICE), None, limit, TORCHVISION)
    check(order[kept.cpu()], case["keep"])


def test_kernel_of_nms_with_many_boxes_in_groups(kernels: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(150, 4, generator=draw) * 20
    boxes[:, 2:] += boxes[:, :2]
    groups = torch.randint(3, (150,), generator=draw)
    found = kernels.kept_boxes(boxes.to(DEVICE), groups.to(DEVICE), 0.3, DETECTRON).cpu()
    assert torch.equal(found, kept_boxes(boxes, groups, 0.3, DETECTRON))


class StandIn(ModuleType):
    """Operators with torchvision's signatures, computed by plain torch; ``calls`` names those that were called."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__("torchvision.ops")
        self.error, self.calls = error, list[str]()

    def roi_align(self, input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float = 1.0,
                  sampling_ratio: int = -1, aligned: bool = False) -> Tensor:  # fmt: skip
        self.calls.append("roi_align")
        return roi.align(input, boxes, output_size, spatial_scale, max(sampling_ratio, 0), aligned) + self.error

    def roi_pool(
        self, input: Tensor, boxes: Tensor, output_size: tuple[int, int], spatial_scale: float = 1.0
    ) -> Tensor:
        self.calls.append("roi_pool")
        return roi.max_pool(input, boxes, output_size, spatial_scale)

    def nms(self, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        self.calls.append("nms")
        order = scores.argsort(descending=True)
        return order[kept_boxes(boxes[order], None, least_dropped(iou_threshold, TORCHVISION), TORCHVISION)]


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in into the place of torchvision; return it."""

    def install(ops: Any) -> Any:
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
        backends._ops.cache_clear()
        return ops

    yield install
    backends._ops.cache_clear()


def use_all() -> None:
    features, boxes = random(0, 1, 2, 8, 8), torch.tensor([[1.0, 2, 6, 7]])
    rois = torch.cat([torch.zeros(1, 1), boxes], 1)
    roi.roi_align(features, rois, 3)
    roi.roi_pool(features, rois, 3)
    for convention in (TORCHVISION, DETECTRON):
        nms(boxes, boxes[:, 0], 0.5, convention)


def test_torchvision_is_used_where_its_rules_are_wanted(torchvision: Any) -> None:
    ops = torchvision(StandIn())
    use_all()
    assert ops.calls[-3:] == ["roi_align", "roi_pool", "nms"]
    assert ops.calls[:-3] == ["roi_align", "roi_align", "roi_pool", "nms"]  # compared once


def test_a_torchvision_with_other_results_is_not_used(torchvision: Any, caplog: pytest.LogCaptureFixture) -> None:
    ops = torchvision(StandIn(error=0.1))
    with caplog.at_level(logging.WARNING):
        use_all()
    assert ops.calls == ["roi_align"]
    assert "torchvision.ops is not used on cpu, torch computes instead: roi_align is off by" in caplog.text


def test_without_torchvision_nothing_is_said(torchvision: Any, caplog: pytest.LogCaptureFixture) -> None:
    torchvision(None)
    use_all()
    assert not caplog.text
