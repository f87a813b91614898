"""Exported files in the commands that take a model: the export is scored on the data, and tested as the model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from segkernel import Predictor, checkpoint
from segkernel.config import load_config
from segkernel.config.marks import to_builtin
from segkernel.loading import make_model
from segplug_datasets import Ensemble, image

pytest.importorskip("segplug_deploy")
CLASSES = ["sound", "crack"]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A config with data, and a checkpoint with random weights beside it."""
    rng = np.random.default_rng(0)
    for index in range(3):
        mask = np.zeros((50, 66), np.uint8)
        mask[10:40, index * 10 : 30] = 1
        image.write(
            tmp_path / "photos" / f"{index}.png",
            (rng.integers(0, 50, (50, 66, 3)) + 200 * mask[..., None]).astype(np.uint8),
        )
        image.write_mask(tmp_path / "masks" / f"{index}.png", mask)
    dataset = {
        "type": "FolderDataset",
        "data_root": str(tmp_path),
        "images": "photos",
        "masks": "masks",
        "classes": CLASSES,
    }
    head = {"type": "FCNHead", "in_channels": 32, "channels": 8, "num_classes": 2, "num_convs": 1}
    config: dict[str, Any] = {
        "model": {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 4, "stem_channels": 4},
            "decode_head": head,
        },
        "data": {"val": dataset, "test": dataset, "workers": 0, "num_classes": 2},
        "evaluate": {"metrics": [{"type": "IoUMetric"}]},
        "engine": {"device": "cpu"},
    }
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    state = make_model(load_config(tmp_path / "my.yaml")).state_dict()
    checkpoint.save(tmp_path / "best.pt", {"state_dict": state, "meta": {"classes": CLASSES, "config": config}})
    return tmp_path / "best.pt"


def seg_kernel(*arguments: object) -> int:
    from segkernel.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_a_file_is_certified_on_the_data_and_tested_as_the_model_is(trained, tmp_path, capsys):
    out, drawn = tmp_path / "model.torchscript", tmp_path / "drawn"
    arguments = ("--trust", "--with-preprocess", "--with-labels", "--count", 2)
    assert seg_kernel("export", trained, *arguments, "--out", out, "--show-dir", drawn) == 0
    certificate = json.loads((tmp_path / "model.torchscript.json").read_text())
    assert certificate["images"] == "2 images of data.test"
    assert certificate["scores"]["images"] == 2
    assert certificate["scores"]["model"] == certificate["scores"]["file"]
    assert certificate["scores"]["classes"].keys() == {*CLASSES}
    assert image.read(drawn / "1.png").shape == (50, 2 * 66, 3)
    capsys.readouterr()
    found = []
    for model in (trained, out):
        assert seg_kernel("test", model, "--trust", "--work-dir", tmp_path / model.suffix) == 0
        found.append(capsys.readouterr().out.splitlines()[0])
    assert found[0] == found[1]
    assert "mIoU" in found[0]


def test_a_file_only_predicts_on_request_with_the_exporter_that_is_named(trained, tmp_path, capsys):
    out = tmp_path / "model.torchscript"
    assert seg_kernel("export", trained, "--trust", "--out", out, "--dynamic", "none") == 0
    capsys.readouterr()
    arguments = ("--trust", "--exporter", "{type: TorchScriptExporter, device: cpu}", "--work-dir", tmp_path / "run")
    assert seg_kernel("test", tmp_path / "my.yaml", out, *arguments, "--format-only", "--out", tmp_path / "labels") == 0
    assert "nothing to compare with" in capsys.readouterr().out
    assert image.read_mask(tmp_path / "labels" / "0.png").shape == (50, 66)


def test_a_file_of_another_size_than_the_images_is_compared_at_its_own(trained, tmp_path):
    out, drawn = tmp_path / "model.torchscript", tmp_path / "drawn"
    arguments = ("--trust", "--dynamic", "none", "--size", "32x48", "--count", 2)
    assert seg_kernel("export", trained, *arguments, "--out", out, "--show-dir", drawn) == 0
    scores = json.loads((tmp_path / "model.torchscript.json").read_text())["scores"]
    assert scores["model"] == scores["file"]
    assert image.read(drawn / "1.png").shape == (32, 2 * 48, 3)


def test_a_file_computes_in_its_own_precision_under_autocast(trained, tmp_path):
    out = tmp_path / "model.torchscript"
    assert seg_kernel("export", trained, "--trust", "--out", out, "--count", 1) == 0
    file, images = Predictor(out, trust=True).model, torch.rand(1, 3, 50, 66)
    expected = file(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(file(images), expected)


def test_int8_is_not_calibrated_on_noise(trained, tmp_path, capsys):
    for photo in (tmp_path / "photos").iterdir():
        photo.unlink()
    out = tmp_path / "model.onnx"
    assert seg_kernel("export", trained, "--trust", "--precision", "int8", "--out", out) == 2
    assert "name some by --image" in capsys.readouterr().err
    assert not out.exists()


def test_several_models_are_tested_as_the_ensemble_that_predicts(trained, tmp_path, capsys):
    torch.manual_seed(1)
    config = load_config(tmp_path / "my.yaml", ["+data.preprocess={mean: [0, 0, 0], std: [255, 255, 255]}"])
    meta = {"classes": CLASSES, "config": to_builtin(config.data)}
    checkpoint.save(tmp_path / "other.pt", {"state_dict": make_model(config).state_dict(), "meta": meta})
    models = trained, tmp_path / "other.pt"
    assert seg_kernel("test", *models, "--trust", "--work-dir", tmp_path / "run", "--out", tmp_path / "labels") == 0
    assert "mIoU" in capsys.readouterr().out.splitlines()[0]
    ensemble = Ensemble([Predictor(model, trust=True) for model in models])
    for index in range(3):
        expected = ensemble(tmp_path / "photos" / f"{index}.png").labels
        assert np.array_equal(image.read_mask(tmp_path / "labels" / f"{index}.png"), expected)
