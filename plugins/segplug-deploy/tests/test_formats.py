"""Every format: the file predicts as the model does, with preprocessing and labels in it or without."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deploy_models import METADATA, Tiny
from torch import Tensor

import segplug_deploy
from segkernel import Predictor
from segkernel.errors import ExportError, UsageError
from segplug_deploy import Evidence
from segplug_deploy.formats.capture import capture
from segplug_deploy.graph import Graph, Interface

PREPROCESS = {
    "mean": [100.0, 110.0, 120.0],
    "std": [50.0, 60.0, 70.0],
    "channel_order": "bgr",
    "test_cfg": {"size_divisor": 32},
}
FORMATS = {
    "ONNXExporter": "onnxruntime",
    "OpenVINOExporter": "openvino",
    "TorchExportExporter": "torch",
    "TorchScriptExporter": "torch",
}
"""Exporter to the package that it needs."""
CODE = ("TorchExportExporter", "TorchScriptExporter")
BAKED = {"with_preprocess": True, "with_labels": True}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)


@pytest.fixture(scope="module")
def example() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.interpolate(torch.randn(1, 3, 8, 12, generator=generator), size=(64, 96))


@pytest.fixture(scope="module", params=FORMATS)
def exporter(request: pytest.FixtureRequest) -> Any:
    if importlib.util.find_spec(FORMATS[request.param]) is None:
        pytest.skip(f"{FORMATS[request.param]} is not installed")
    return getattr(segplug_deploy, request.param)


@pytest.fixture(scope="module")
def baked(exporter: Any, example: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes uint8 images and returns labels."""
    path = tmp_path_factory.mktemp("baked") / f"tiny{exporter.suffix}"
    exporter(**BAKED).export(Tiny(), path, example, {**METADATA, "preprocess": PREPROCESS})
    return path


def test_a_predictor_with_a_baked_file_has_the_labels_of_the_model(baked, pixels):
    model = Predictor(Tiny().eval(), preprocess=PREPROCESS, classes=METADATA["classes"])
    file = Predictor(baked, trust=True)
    assert np.array_equal(file(pixels).labels, model(pixels).labels)
    assert file.classes == ("road", "sky")
    assert file(pixels)["edge"].dtype == torch.uint8


def test_a_baked_file_takes_uint8_images_and_returns_uint8_labels(baked, exporter, pixels):
    given = torch.from_numpy(pixels)[None].repeat(2, 1, 1, 1)
    labels, _ = exporter().load(baked).run(given)
    assert labels.shape == (2, 61, 83)
    assert labels.dtype == torch.uint8


def test_the_operators_of_a_file_can_be_printed(baked, exporter):
    assert "conv" in exporter().load(baked).graph_text().lower()


def test_labels_of_several_views_are_refused(baked, pixels):
    with pytest.raises(UsageError, match="with_labels"):
        Predictor(baked, trust=True, tta={"scales": [1.0], "flip": True})(pixels)
    with pytest.raises(UsageError, match="mode: whole"):
        Predictor(baked, trust=True, test_cfg={"mode": "slide", "crop_size": 32, "stride": 32})(pixels)


def test_the_certificate_states_what_was_compared(baked):
    certificate = json.loads(baked.with_name(f"{baked.name}.json").read_text())
    assert certificate["file"] == baked.name
    assert [proof["shape"] for proof in certificate["proofs"]][::2] == [[1, 3, 64, 96], [2, 3, 64, 128], [3, 3, 77, 89]]
    assert {proof["agreement"] for proof in certificate["proofs"]} == {1.0}
    assert len(certificate["about"]["weights_sha256"]) == 64
    assert certificate["about"]["versions"]["torch"]


def test_a_graph_with_labels_has_no_operator_that_core_ml_lacks(example):
    graph = Graph(Tiny(), Interface(labels=True)).eval()
    program = capture(graph, example, False).run_decompositions({})
    assert torch.ops.aten.alias.default not in {node.target for node in program.graph.nodes}


@pytest.mark.parametrize("name", CODE)
def test_a_file_with_code_is_not_opened_unless_it_is_trusted(tmp_path, example, pixels, name):
    kind = getattr(segplug_deploy, name)
    path = tmp_path / f"a{kind.suffix}"
    kind(dynamic=False).export(Tiny(), path, example, METADATA)
    with pytest.raises(ExportError, match=r"holds code[^\n]*\n.*--trust"):
        Predictor(path)


def test_what_is_not_a_map_of_classes_cannot_become_labels(example, tmp_path):
    model = Tiny()
    model.outputs["seg"] = object()
    with pytest.raises(ExportError, match="with_labels is for maps of classes, not for object"):
        segplug_deploy.TorchScriptExporter(with_labels=True).export(model, tmp_path / "a.torchscript", example)


def test_preprocessing_that_is_unknown_cannot_be_in_the_file(example, tmp_path):
    with pytest.raises(ExportError, match="with_preprocess needs"):
        segplug_deploy.TorchScriptExporter(with_preprocess=True).export(Tiny(), tmp_path / "a.torchscript", example)


def evidence(pixels: np.ndarray, truth: np.ndarray, found: np.ndarray) -> Evidence:
    return Evidence(
        what="one image",
        sources=[pixels],
        truths=[truth],
        predict=lambda source, size: truth,
        predictor=lambda path: lambda source, size: found,
        classes=("road", "sky"),
    )


def test_the_loss_of_miou_is_certified_per_class_and_bounded(tmp_path, example, pixels):
    truth = np.zeros((4, 5), np.uint8)
    truth[:, 3:], truth[0, 0] = 1, 255
    wrong = np.where(truth == 255, 1, truth)
    wrong[0, 1] = 1  # one of eleven
    path = tmp_path / "a.torchscript"
    exporter = segplug_deploy.TorchScriptExporter(miou_loss=20)
    line = exporter.export(Tiny(), path, example, METADATA, evidence(pixels, truth, wrong))
    assert "mIoU 100.00 -> 89.90" in line
    scores = json.loads(path.with_name("a.torchscript.json").read_text())["scores"]
    assert scores["classes"] == {"road": {"model": 100, "file": 90.909}, "sky": {"model": 100, "file": 88.889}}
    path.unlink()
    with pytest.raises(ExportError, match=r"loses 10\.10 points of mIoU, 100\.00 to 89\.90, on one image"):
        segplug_deploy.TorchScriptExporter().export(Tiny(), path, example, METADATA, evidence(pixels, truth, wrong))
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "error"), [("TorchExportExporter", "of torch.export"), ("TorchScriptExporter", "as TorchScript")]
)
def test_a_damaged_file_is_one_clear_error(tmp_path, name, error):
    kind = getattr(segplug_deploy, name)
    (tmp_path / f"a{kind.suffix}").write_bytes(b"PK no archive")
    with pytest.raises(ExportError, match=f"cannot be opened .*{error}"):
        kind().load(tmp_path / f"a{kind.suffix}")
    with pytest.raises(ExportError, match="no such file"):
        kind().load(tmp_path / f"gone{kind.suffix}")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("CoreMLExporter", "coremltools", "coreml"), ("ExecuTorchExporter", "executorch", "executorch")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, example, name, package, extra):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    kind = getattr(segplug_deploy, name)
    with pytest.raises(ExportError, match=rf"needs {package}\n    pip install 'segplug-deploy\[{extra}\]'"):
        kind().export(Tiny(), tmp_path / f"a{kind.suffix}", example, METADATA)


def test_a_file_can_be_written_unverified_and_says_so(tmp_path, example):
    path = tmp_path / "a.torchscript"
    line = segplug_deploy.TorchScriptExporter(dynamic=False, verify=False).export(Tiny(), path, example, METADATA)
    assert line == "not verified: the file was not run"
    assert json.loads(path.with_name("a.torchscript.json").read_text())["verified"] is False
    assert segplug_deploy.TorchScriptExporter().load(path)(example).shape == (1, 2, 32, 48)
