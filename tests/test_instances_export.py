"""Detectors through exporters and `Predictor`: objects of a file are those of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segkernel import Predictor
from segkernel.errors import ExportError
from segkernel.interfaces.model import Backbone
from segkernel.interfaces.spec import Spec

pytest.importorskip("segplug_instances", reason="needs segplug-instances")
pytest.importorskip("segplug_deploy", reason="needs segplug-deploy")

from segplug_deploy import ONNXExporter
from segplug_instances import RCNN, RPN, Anchors, MaskHead, MLPBoxHead, RoIPooler


class Strided(Backbone):
    """One convolution of stride 8."""

    channels, strides = (8,), (8,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(images),)


@pytest.fixture(scope="module")
def model() -> RCNN:
    """A detector of three classes whose scores differ widely."""
    torch.manual_seed(0)
    rpn = Spec(RPN, anchors=Spec(Anchors, sizes=[[16, 32]]), pre_nms=[100, 60], post_nms=[50, 20])
    heads = {
        "box_head": Spec(MLPBoxHead, pooler=Spec(RoIPooler, output_size=3), fc_channels=16),
        "mask_head": Spec(MaskHead, num_convs=1, channels=8),
    }
    model = RCNN(Strided(), rpn=rpn, **heads, num_classes=3, size_divisor=8).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_logits.weight", "cls_score.weight", "bbox_pred.weight", "mask_logits.weight")):
            nn.init.normal_(parameter, std=0.5)
    return model


def test_objects_of_an_onnx_file_are_those_of_the_model(model: RCNN, tmp_path: Path) -> None:
    path, example = tmp_path / "model.onnx", torch.randn(1, 3, 64, 96)
    metadata = {"classes": ["a", "b", "c"], "preprocess": {"mean": [0.0] * 3, "std": [255.0] * 3}}
    report = ONNXExporter(dynamic="size").export(model, path, example, metadata)
    assert report.startswith("verified")
    pixels = np.random.default_rng(1).integers(0, 256, (77, 51, 3), np.uint8)
    options = {"classes": metadata["classes"], "preprocess": metadata["preprocess"]}
    ours, theirs = Predictor(model, **options)(pixels)["seg"], Predictor(path)(pixels)["seg"]
    assert len(ours["scores"]) > 2
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert torch.allclose(values.float(), theirs[name].float(), atol=1e-3), name


def test_a_batch_is_refused_with_what_to_set(model: RCNN, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dynamic: size"):
        ONNXExporter().export(model, tmp_path / "model.onnx", torch.randn(1, 3, 64, 96))
