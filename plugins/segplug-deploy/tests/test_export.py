"""The command `export`: writes a verified file next to the weights, and reports errors in one message."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from segkernel import checkpoint

MODULE = """
import json
import torch
from pathlib import Path
from segkernel.errors import DataError, ExportError
from segkernel.interfaces.model import Exporter, PixelClasses, Segmentor

class Shades(Segmentor):
    def __init__(self, scale: float = 1.0, pretrained: str | None = None) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.outputs = {"seg": PixelClasses(classes=2, out_channels=2)}
        self.test_cfg = {"mode": "whole"}
        self.pretrained = pretrained

    def forward(self, images):
        light = images.mean(1, keepdim=True) - 128
        return torch.cat([-light, light], 1) * self.scale

    def predict(self, images):
        return {"seg": self(images)}

class Unreadable:
    def __init__(self, folder: str) -> None:
        raise DataError(f"{folder}: no such folder")

class ScaleExporter(Exporter):
    suffix = ".scale"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def export(self, segmentor, path, example, metadata=None):
        if segmentor.scale < 0:
            raise ExportError("other outputs")
        Path(path).write_text(json.dumps({"scale": float(segmentor.scale) * self.factor, "metadata": metadata}))
        return f"verified on {tuple(example.shape)}"

    def load(self, path, device=None):
        raise NotImplementedError
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A checkpoint as a run writes it, whose data set and pretrained weights do not exist."""
    (tmp_path / "shades.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shades", raising=False)
    config = {
        "model": {"type": "shades:Shades", "pretrained": "gone.pth"},
        "data": {"test": {"type": "GoneData"}, "preprocess": {"mean": [0.0] * 3, "std": [1.0] * 3}},
    }
    meta = {"classes": ["dark", "light"], "palette": [[0, 0, 9], [9, 9, 0]], "config": config}
    checkpoint.save(tmp_path / "best.pt", {"state_dict": {"scale": torch.tensor(2.0)}, "meta": meta})
    return tmp_path / "best.pt"


@pytest.fixture
def night_and_day(tmp_path):
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return tmp_path / "photo.png"


def seg_kernel(*arguments):
    """Run the command line in this process."""
    from segkernel.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_the_export_command_writes_next_to_the_weights_and_prints_the_next_command(
    trained, night_and_day, capsys, caplog
):
    caplog.set_level("INFO")
    assert not seg_kernel("export", trained, "--trust", "--format", "shades:ScaleExporter", "--image", night_and_day)
    written = json.loads(trained.with_suffix(".scale").read_text())
    assert written["scale"] == 2
    assert written["metadata"]["classes"] == ["dark", "light"]
    assert "verified on (1, 3, 6, 8)" in caplog.text
    assert f"seg-kernel predict {trained.with_suffix('.scale')}" in capsys.readouterr().out


def test_a_run_directory_is_exported_and_images_that_may_not_be_read_are_replaced_by_noise(trained, tmp_path, caplog):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    trained.rename(folder / "checkpoints" / "best_mIoU_iter_0000004.pt")
    gone = "data.test={type: 'shades:Unreadable', folder: gone}"
    options = ("--trust", "--format", "shades:ScaleExporter")
    assert not seg_kernel("export", folder, gone, "+data.crop_size=[6, 9]", *options)
    assert json.loads((folder / "model.scale").read_text())["scale"] == 2
    assert "verifying on noise of 6 x 9" in caplog.text


SECTION = "+export=[{type: 'shades:ScaleExporter', factor: 3}]"


@pytest.mark.parametrize(
    ("arguments", "scale"),
    [
        ((SECTION,), 6),
        ((SECTION, "--format", "shades:ScaleExporter"), 6),
        ((SECTION, "--format", "{type: 'shades:ScaleExporter', factor: 4}"), 8),
        (("--format", "{type: 'shades:ScaleExporter', factor: 4}"), 8),
    ],
)
def test_the_exporter_and_its_arguments_come_from_the_config_or_the_command(trained, night_and_day, arguments, scale):
    assert not seg_kernel("export", trained, *arguments, "--trust", "--image", night_and_day)
    assert json.loads(trained.with_suffix(".scale").read_text())["scale"] == scale


def test_the_export_command_changes_the_config(trained, night_and_day):
    arguments = ("--trust", "--format", "shades:ScaleExporter", "--image", night_and_day)
    assert not seg_kernel("export", trained, "data.preprocess.mean=[1, 1, 1]", *arguments)
    written = json.loads(trained.with_suffix(".scale").read_text())
    assert written["metadata"]["preprocess"]["mean"] == [1, 1, 1]
    assert written["metadata"]["config"]["data"]["preprocess"]["mean"] == [1, 1, 1]


def test_the_export_command_writes_views_into_the_config(trained, night_and_day):
    arguments = ("--trust", "--format", "shades:ScaleExporter", "--image", night_and_day, "--tta")
    for overrides, expected in (
        ((), {"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "flip": True}),
        (("+evaluate.tta={scales: [1.0, 2.0]}",), {"scales": [1.0, 2.0]}),
    ):
        assert not seg_kernel("export", trained, *overrides, *arguments)
        assert (
            json.loads(trained.with_suffix(".scale").read_text())["metadata"]["config"]["evaluate"]["tta"] == expected
        )


def test_the_export_command_resizes_the_image(trained, night_and_day, tmp_path, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "there" / "model.scale"
    out.parent.mkdir()
    arguments = ("--format", "shades:ScaleExporter", "--image", night_and_day, "--size", "32x64", "--out", out)
    assert not seg_kernel("export", trained, "--trust", *arguments)
    assert out.exists()
    assert "verified on (1, 3, 32, 64)" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("best.pt", "--trust", "--format", "NoSuchExporter", "--image", "photo.png"), "NoSuchExporter"),
        (("best.pt", "--trust", "--format", "shades:ScaleExporter", "--image", "gone.png"), "gone.png"),
        (("best.pt", "--trust", "--format", "shades:ScaleExporter"), "GoneData"),
        (("best.pt", "--trust", "--format", "{type: [", "--image", "photo.png"), "--format"),
        (("photo.png", "--format", "shades:ScaleExporter", "--image", "photo.png"), "photo.png"),
        (
            ("best.pt", "--trust", "--format", "shades:ScaleExporter", "--image", "photo.png", "--out", "a.onnx"),
            "ScaleExporter end in .scale",
        ),
    ],
)
def test_bad_arguments_of_the_export_command_are_one_message(
    trained, night_and_day, tmp_path, monkeypatch, capsys, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    assert seg_kernel("export", *arguments) in (1, 2, 3)
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("*.scale"))


@pytest.mark.parametrize("size", ["64", "axb", "64x"])
def test_an_unreadable_size_is_refused_by_the_command(size):
    from segplug_deploy.export import command

    result = CliRunner().invoke(command, ["model.pt", "--size", size])
    assert result.exit_code == 2
    assert "512x1024" in result.output
