"""Detectors through exporters and the server: objects of a file, and of an answer, are those of the model."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from segkernel import Predictor
from segkernel.errors import ExportError
from segkernel.interfaces.model import Backbone
from segkernel.interfaces.spec import Spec
from segkernel.sample import LabelMap, Sample

pytest.importorskip("segplug_instances", reason="needs segplug-instances")
pytest.importorskip("segplug_deploy", reason="needs segplug-deploy")

from segplug_deploy import ONNXExporter
from segplug_deploy.evidence import draw_pairs, evidence_for
from segplug_instances import RCNN, RPN, Anchors, MaskHead, MLPBoxHead, RoIPooler

SHOWN = 0.3
"""Score from which pictures show an object."""


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


def test_evidence_of_a_detector_has_pictures_and_no_label_maps(model: RCNN, tmp_path: Path) -> None:
    sample = Sample({"seg": LabelMap(np.zeros((64, 96), np.uint8))}, {}, np.zeros((64, 96, 3), np.uint8))
    predictor = Predictor(model, classes=["a", "b", "c"])
    evidence = evidence_for(predictor, ONNXExporter(dynamic="size"), [sample])
    evidence.predictor = lambda path: evidence.predict
    assert evidence.truths == [None]
    draw_pairs(evidence, tmp_path, tmp_path / "shown", predictor.palette, 0.5, output=model.output)
    assert cv2.imread(str(tmp_path / "shown" / "0.png")).shape == (64, 192, 3)


def test_a_batch_is_refused_with_what_to_set(model: RCNN, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dynamic: size"):
        ONNXExporter().export(model, tmp_path / "model.onnx", torch.randn(1, 3, 64, 96))


def test_objects_are_answered_in_every_format(model: RCNN, monkeypatch: pytest.MonkeyPatch) -> None:
    testclient = pytest.importorskip("starlette.testclient", reason="needs segplug-deploy[serve]")
    from pycocotools import mask as coco

    from segplug_deploy.serve.app import create_app
    from segplug_deploy.serve.models import ServedModel

    known = {"classes": ["a", "b", "c"], "preprocess": {"mean": [0.0] * 3, "std": [255.0] * 3}}
    monkeypatch.setattr(model, "outputs", {"seg": replace(model.output, shown_score=SHOWN)})
    predictor = Predictor(model, **known)
    pixels = np.random.default_rng(1).integers(0, 256, (77, 51, 3), np.uint8)
    expected = predictor(pixels)["seg"]
    body = cv2.imencode(".png", pixels[:, :, ::-1])[1].tobytes()
    with testclient.TestClient(create_app({"toy": ServedModel("toy", predictor)})) as server:
        about = server.get("/models").json()["models"][0]
        assert (about["task"], about["shown_score"], len(about["skeleton"])) == ("objects", SHOWN, 19)
        found = server.post("/models/toy/predict?format=rle", content=body).json()
        polygons = server.post("/models/toy/predict?format=polygons", content=body).json()["objects"]
        plain = server.post("/models/toy/predict?format=json", content=body).json()["objects"]
        png = server.post("/models/toy/predict", content=body).content
    assert (found["height"], found["width"]) == (77, 51)
    order = expected["scores"].argsort(descending=True, stable=True)
    for name, values in (("score", "scores"), ("box", "boxes"), ("id", "labels")):
        assert np.allclose([each[name] for each in found["objects"]], expected[values][order], atol=1e-4)
    masks = np.array([coco.decode(each["rle"]) for each in found["objects"]], bool)
    assert np.array_equal(masks, expected["masks"][order].numpy())
    assert [each["geometry"]["type"] for each in polygons] == ["MultiPolygon"] * len(masks)
    assert plain == [{name: value for name, value in each.items() if name != "rle"} for each in found["objects"]]
    image, shown = Image.open(BytesIO(png)), (expected["scores"][order] >= SHOWN).numpy()
    assert 0 < shown.sum() < len(shown)
    best = np.where(masks[shown].any(0), expected["labels"][order].numpy()[masks[shown].argmax(0)], 255)
    assert np.array_equal(np.array(image), best)
    assert json.loads(image.text["objects"]) == plain
