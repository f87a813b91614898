"""NMS, RoIAlign, proposals and detections as graphs of torch.export and ONNX, at other numbers of boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segplug_instances.conventions import DETECTRON, TORCHVISION, Convention
from segplug_instances.proposals import select
from segplug_instances.results import detections
from segplug_instances.roi import RoIPooler

DYNAMIC = torch.export.Dim.DYNAMIC
RULES = pytest.mark.parametrize(
    ("convention", "pooling"),
    [
        (TORCHVISION, {"sampling_ratio": 0}),
        (DETECTRON, {"sampling_ratio": 2}),
        (DETECTRON, {"kind": "pool"}),
        (DETECTRON, {"kind": "crop"}),
    ],
    ids=["torchvision", "detectron", "RoIPool", "RoICrop"],
)

pytestmark = pytest.mark.slow


class Regions(nn.Module):
    """Proposals of one image, their features on two levels, and detections from boxes of two classes."""

    def __init__(self, convention: Convention, pooling: dict[str, Any]) -> None:
        super().__init__()
        self.convention = convention
        self.pooler = RoIPooler(3, (4, 8), **pooling, canonical_size=32, canonical_level=3)

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor, logits: Tensor) -> tuple[Tensor, ...]:
        chosen, _ = select([logits], [boxes], [(64, 64)], 40, 20, 0.7, 1.0, self.convention)[0]
        features = self.pooler([fine, coarse], [chosen])
        scores = torch.stack([features[:, 0].mean((1, 2)), features[:, 1].mean((1, 2)), features[:, 2, 0, 0]], 1)
        found = detections(chosen[:, None], scores.softmax(1), (64, 64), 0.2, 0.5, 10, self.convention)
        return (features, *found)


def inputs(seed: int, count: int) -> tuple[Tensor, ...]:
    """Return two feature maps, and boxes with logits."""
    draw = torch.Generator().manual_seed(seed)
    corners, sides = (torch.rand(1, count, 2, generator=draw) * 50 for _ in "ab")
    fine, coarse = torch.randn(1, 4, 16, 16, generator=draw), torch.randn(1, 4, 8, 8, generator=draw)
    return fine, coarse, torch.cat([corners, corners + sides], 2), torch.randn(1, count, generator=draw)


def export(model: nn.Module) -> Any:
    shapes = ({}, {}, {1: DYNAMIC}, {1: DYNAMIC})
    with torch.no_grad():
        return torch.export.export(model.eval(), inputs(0, 60), dynamic_shapes=shapes)


@RULES
def test_graphs_find_what_the_model_finds(convention: Convention, pooling: dict[str, Any]) -> None:
    model = Regions(convention, pooling)
    program = export(model)
    for count in (60, 90, 45):
        example = inputs(count, count)
        for got, wanted in zip(program.module()(*example), model(*example), strict=True):
            torch.testing.assert_close(got, wanted)


@RULES
def test_onnx_finds_what_the_model_finds(convention: Convention, pooling: dict[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = Regions(convention, pooling)
    torch.onnx.export(export(model), dynamo=True, verbose=False).save(tmp_path / "regions.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "regions.onnx")
    names = [given.name for given in session.get_inputs()]
    for count in (60, 90, 45):
        example = inputs(count, count)
        found = session.run(None, {name: value.numpy() for name, value in zip(names, example)})
        for got, wanted in zip(found, model(*example), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), wanted)
