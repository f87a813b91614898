from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from deploy_models import METADATA, Tiny
from torch import Tensor, nn
from torch.nn import functional as F

from segkernel import Predictor
from segkernel.errors import ConfigError, ExportError, SegKernelError
from segkernel.interfaces.model import PixelClasses
from segkernel.nn import resize
from segplug_deploy import ONNXExporter, prove, runtime
from segplug_deploy.formats import onnx as onnx_format
from segplug_deploy.formats.onnx import PROVIDERS
from segplug_deploy.quantize import to_float16, to_int8

KEYS = ("classes", "palette", "preprocess", "plugins", "config")


class TorchPooling(Tiny):
    """Uses torch's adaptive pooling, whose exported form is wrong at sizes the bins do not divide."""

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        features = self.stem(images)
        pooled = resize(F.adaptive_avg_pool2d(features, 3), size=features.shape[2:])
        return {"seg": self.head(torch.cat([features, pooled], 1)), "edge": features[:, :1]}


class Wobbly(Tiny):
    """Returns other values from the second call on, like a model with hidden state."""

    calls = 0

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {name: logits * self.calls for name, logits in super().predict(images).items()}


class DataDependent(Tiny):
    """Branches on the values of the image, which a static graph cannot."""

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return super().predict(images if images.sum() > 0 else -images)


@pytest.fixture(scope="module")
def image() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return F.interpolate(torch.randn(1, 3, 8, 12, generator=generator), size=(64, 96), mode="bilinear")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, image: Tensor) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("onnx") / "deep" / "tiny.onnx"
    model = Tiny().train()
    proof = ONNXExporter().export(model, path, image, METADATA)
    return {"path": path, "model": model, "proof": proof}


def test_the_example_and_two_more_sizes_are_compared(exported):
    certificate = json.loads(exported["path"].with_name("tiny.onnx.json").read_text())
    assert [(proof["output"], proof["shape"]) for proof in certificate["proofs"]] == [
        ("seg", [1, 3, 64, 96]),
        ("edge", [1, 3, 64, 96]),
        ("seg", [2, 3, 64, 128]),
        ("edge", [2, 3, 64, 128]),
        ("seg", [3, 3, 77, 89]),
        ("edge", [3, 3, 77, 89]),
    ]
    assert certificate["latency"]["file_ms"] > 0
    assert "3 sizes" in exported["proof"]


def test_the_loaded_file_predicts_like_the_model_at_any_size(exported):
    loaded = ONNXExporter().load(exported["path"])
    model = exported["model"].eval()
    images = torch.rand(3, 3, 51, 37)
    with torch.no_grad():
        expected = model.predict(images)
    for name, logits in loaded.predict(images).items():
        torch.testing.assert_close(logits, expected[name], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded(images), expected["seg"], rtol=1e-4, atol=1e-5)


def test_outputs_and_metadata_are_stored_in_the_file(exported):
    loaded = ONNXExporter().load(exported["path"])
    assert loaded.outputs == exported["model"].outputs
    assert loaded.test_cfg == {"mode": "whole"}
    assert {key: loaded.metadata[key] for key in METADATA} == METADATA


def test_exporting_leaves_the_model_in_training_mode_and_a_file_with_its_certificate(tmp_path, image):
    model = Tiny().train()
    ONNXExporter(dynamic=False).export(model, tmp_path / "tiny.onnx", image)
    assert model.training
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tiny.onnx", "tiny.onnx.json"]


def operators(path: Path) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


def agreement(path: Path, model: Tiny, images: Tensor) -> float:
    with torch.no_grad():
        expected = model.eval()(images).argmax(1)
    return (ONNXExporter().load(path)(images).argmax(1) == expected).double().mean().item()


def test_int8_quantises_convolutions_and_keeps_labels_and_metadata(exported, image, tmp_path):
    path = Path(shutil.copy(exported["path"], tmp_path))
    to_int8(path, [image.numpy(), image.flip(-1).numpy()])
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(path)
    assert agreement(path, exported["model"], torch.cat([image, image.flip(-2)])) > 0.9
    assert ONNXExporter().load(path).metadata["classes"] == METADATA["classes"]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


class Classes(Tiny):
    """Logits of any number of classes at half of the size."""

    def __init__(self, count: int, align_corners: bool) -> None:
        super().__init__()
        self.logits = nn.Conv2d(6, count, 1)
        self.outputs = {"seg": PixelClasses(count, count, align_corners=align_corners)}

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        return {"seg": self.logits(self.stem(images))}


@pytest.mark.parametrize(("count", "align_corners", "dtype"), [(5, False, torch.uint8), (260, True, torch.int64)])
def test_labels_are_chosen_class_by_class(tmp_path, image, count, align_corners, dtype):
    model, path = Classes(count, align_corners).eval(), tmp_path / "labels.onnx"
    ONNXExporter(with_labels=True).export(model, path, image, METADATA)
    loaded, images = ONNXExporter().load(path), torch.randn(2, 3, 43, 70)
    assert "Loop" in loaded.graph_text()
    with torch.no_grad():
        wanted = model.outputs["seg"].resize(model(images), (43, 70), (43, 70)).argmax(1).to(dtype)
    found = loaded.predict(images)["seg"]
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    to_int8(path, [image.numpy()])
    assert (ONNXExporter().load(path).predict(images)["seg"] == wanted).float().mean() > 0.8


def test_int8_needs_images(exported, tmp_path):
    with pytest.raises(ExportError, match="int8 is calibrated on images"):
        to_int8(Path(shutil.copy(exported["path"], tmp_path)), [])


def test_float16_keeps_labels_and_float32_images(exported, image, tmp_path):
    path = Path(shutil.copy(exported["path"], tmp_path))
    to_float16(path)
    assert "Cast" in operators(path)
    assert agreement(path, exported["model"], image) > 0.99


def test_an_exported_model_refuses_training(exported):
    with pytest.raises(ExportError, match="only predicts"):
        ONNXExporter().load(exported["path"]).loss(torch.rand(1, 3, 8, 8), None)


def test_an_unsupported_device_is_refused_with_what_to_install(exported, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ExportError, match=r"cannot run on cuda:1: it has CPUExecutionProvider.*\n.*onnxruntime-gpu"):
        ONNXExporter().load(exported["path"], "cuda:1")
    with pytest.raises(ExportError, match="cannot run on mps"):
        ONNXExporter(device="mps").load(exported["path"])
    with pytest.raises(ExportError, match="'junk' is not a device"):
        ONNXExporter().load(exported["path"], "junk")


def test_without_a_device_the_file_runs_where_torch_and_onnxruntime_both_can(exported, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert ONNXExporter().load(exported["path"]).device == torch.device("cpu")


def test_the_exporter_s_own_device_and_providers_override_the_argument(exported):
    assert ONNXExporter(device="cpu").load(exported["path"], "cuda").device == torch.device("cpu")
    assert ONNXExporter(providers=["CPUExecutionProvider"]).load(exported["path"]).device == torch.device("cpu")


class _FellBack:
    """A session whose provider could not be started: onnxruntime logs it and falls back to the CPU."""

    def __init__(self, path, options, providers, provider_options):
        self.asked = (providers, provider_options)

    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_a_provider_that_cannot_be_started_is_an_error(exported, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr("onnxruntime.InferenceSession", _FellBack)
    with pytest.raises(ExportError, match="could not start CUDAExecutionProvider"):
        ONNXExporter().load(exported["path"], "cuda:1")


def test_a_predictor_uses_the_device_of_the_file(exported):
    predictor = Predictor(exported["path"], device="cpu", exporter={"type": "ONNXExporter"})
    assert predictor.device == predictor.model.device == torch.device("cpu")
    with pytest.raises(ExportError, match="cannot run on mps"):
        Predictor(exported["path"], device="mps")


def test_other_sizes_are_refused_for_a_file_with_fixed_sizes(tmp_path, image):
    ONNXExporter(dynamic=False).export(Tiny(), tmp_path / "a.onnx", image)
    loaded = ONNXExporter().load(tmp_path / "a.onnx")
    message = (
        r"takes images of 1x3x64x96, got 1x3x32x32; export with dynamic: true\n.*mode: slide, crop_size: \[64, 96\]"
    )
    with pytest.raises(ExportError, match=message):
        loaded(torch.rand(1, 3, 32, 32))


def test_an_open_batch_has_fixed_sizes(tmp_path, image):
    ONNXExporter(dynamic="batch").export(Tiny(), tmp_path / "a.onnx", image[..., :64])
    assert ONNXExporter().load(tmp_path / "a.onnx")(torch.rand(5, 3, 64, 64)).shape[0] == 5


def test_square_examples_do_not_tie_height_to_width(tmp_path, image):
    ONNXExporter().export(Tiny(), tmp_path / "a.onnx", image[..., :64])
    assert ONNXExporter().load(tmp_path / "a.onnx")(torch.rand(1, 3, 40, 90)).shape[-2:] == (20, 45)


def test_the_requested_opset_is_written(tmp_path, image):
    import onnx

    ONNXExporter(opset=18).export(Tiny(), tmp_path / "a.onnx", image)
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == 18


@pytest.mark.parametrize("model", [Wobbly(), pytest.param(TorchPooling(), marks=pytest.mark.slow)])
def test_a_differing_file_is_refused_and_an_existing_file_is_kept(tmp_path, image, model):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"older")
    with pytest.raises(ExportError):
        ONNXExporter().export(model.eval(), path, image)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]


def test_the_error_contains_the_differences(image):
    wrong = Tiny()
    wrong.head.bias.data += 1
    with pytest.raises(ExportError, match=r"relative difference up to 0\.001[^\n]*\n.*same labels\nseg +1x3x64x96"):
        prove(Tiny().eval(), wrong.eval(), [image])


def test_nan_logits_are_refused(image):
    wrong = Tiny()
    wrong.head.bias.data *= float("nan")
    with pytest.raises(ExportError, match="nan"):
        prove(Tiny().eval(), wrong.eval(), [image])


def test_a_data_dependent_model_is_one_clear_error(tmp_path, image):
    with pytest.raises(ExportError, match="torch cannot export this model") as caught:
        ONNXExporter().export(DataDependent(), tmp_path / "a.onnx", image)
    assert len(str(caught.value).splitlines()) < 10


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "cannot be opened"), (b"<html></html>", "cannot be opened")],
)
def test_a_bad_file_is_one_clear_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=message):
        ONNXExporter().load(tmp_path / "a.onnx")


def test_a_file_of_another_tool_is_named_as_such(tmp_path, exported):
    import onnx

    model = onnx.load(exported["path"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ExportError, match="written by another tool"):
        ONNXExporter().load(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("outputs", "[1]", "does not describe its outputs"),
        ("outputs", "{}", "does not describe its outputs"),
        ("outputs", '{"edge": {}}', "does not describe its outputs"),
        ("classes", "[" * 100_000, "its metadata is damaged"),
        ("outputs", '{"seg": 5}', "does not describe its outputs"),
        ("outputs", '{"seg": {"type": "os:system"}}', "import path os:system"),
        ("outputs", '{"seg": {"classes": "x"}}', "outputs.classes: expected int"),
        ("test_cfg", "5", "test_cfg: expected a mapping"),
        ("test_cfg", '{"mode": "slide", "crop_size": "x"}', "test_cfg.crop_size: expected"),
    ],
)
def test_metadata_is_checked_like_a_config(tmp_path, exported, key, value, message):
    import onnx

    model = onnx.load(exported["path"])
    next(entry for entry in model.metadata_props if entry.key == f"segkernel.{key}").value = value
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(SegKernelError, match=message):
        ONNXExporter().load(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *((key, value, f"a.onnx {key}: expected") for key in KEYS for value in ("5", "-1.5", "true", "NaN", '"x"')),
        ("classes", "[1, 2]", r"a.onnx classes\[0\]: expected str"),
        ("palette", "[[300, 0, 0], [0, 0, 0]]", r"a.onnx palette\[0\]\[0\]: expected int"),
        ("preprocess", '{"mean": "x"}', "preprocess.mean: expected a list"),
        ("preprocess", '{"channel_order": "xyz"}', "preprocess.channel_order: expected"),
        ("preprocess", '{"size_divisor": -3}', "preprocess.size_divisor: expected"),
        ("preprocess", '{"size": [1000000, 1000000]}', r"preprocess.size\[0\]: expected"),
    ],
)
def test_the_metadata_of_a_loaded_file_is_validated(tmp_path, exported, key, value, message):
    import onnx

    model = onnx.load(exported["path"])
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, f"segkernel.{key}": value})
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ConfigError, match=message):
        Predictor(tmp_path / "a.onnx")


def test_metadata_must_be_plain(tmp_path, image):
    with pytest.raises(ExportError, match="must be plain values"):
        ONNXExporter().export(Tiny(), tmp_path / "a.onnx", image, {"classes": {1, 2}})


def test_missing_packages_are_named(tmp_path, image, monkeypatch):
    find = runtime.importlib.util.find_spec
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ExportError, match="pip install onnxscript"):
        ONNXExporter().export(Tiny(), tmp_path / "a.onnx", image)


def test_an_unwritable_place_is_one_clear_error(tmp_path, image):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="cannot be written"):
        ONNXExporter(dynamic=False).export(Tiny(), tmp_path / "file" / "a.onnx", image)


def test_weights_beyond_protobufs_limit_go_into_a_second_file(tmp_path, image, monkeypatch):
    monkeypatch.setattr(onnx_format, "PROTOBUF_LIMIT", 100)
    ONNXExporter(dynamic=False).export(Tiny(), tmp_path / "a.onnx", image)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data", "a.onnx.json"]
    assert ONNXExporter().load(tmp_path / "a.onnx")(image).shape == (1, 2, 32, 48)


def test_importing_the_package_imports_no_torch():
    command = [sys.executable, "-c", "import segplug_deploy, sys; print('torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_nothing_is_printed_while_exporting(tmp_path, image, capfd):
    ONNXExporter(dynamic=False).export(Tiny(), tmp_path / "a.onnx", image)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
