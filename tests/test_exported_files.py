"""Exported files in the commands that take a model: the export is scored on the data, and tested as the model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from segkernel import checkpoint
from segkernel.config import load_config
from segkernel.loading import make_model
from segplug_datasets import image

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
