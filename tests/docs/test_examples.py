"""The example scripts run without changes."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segkernel.experiment import run
from segplug_datasets import image
from segplug_instances import MLPBoxHead

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["data.crop_size=[64,96]", "data.train.length=8", "+data.val.length=2", "+data.test.length=2", "data.workers=0",
         "schedule.iterations=2", "schedule.val_interval=2", "optim.batch_size=2", "export=[]"]  # fmt: skip


def run_script(name: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_run_a_config(tmp_path):
    out = run_script("run_a_config.py", *SMALL, folder=tmp_path)
    assert "mIoU" in out
    assert "quickstart.yaml" in out or "starter.yaml" in out


def test_build_a_model(tmp_path):
    assert "(1, 32, 16, 24)" in run_script("build_a_model.py", folder=tmp_path)


def test_cascade_rcnn(capsys):
    runpy.run_path(str(EXAMPLES / "cascade_rcnn.py"))["main"]()
    out = capsys.readouterr().out
    assert "loss_bbox_3" in out
    assert "'masks': (100, 28, 28)" in out


def test_a_cascade_of_one_stage_is_a_box_head():
    cascade = runpy.run_path(str(EXAMPLES / "cascade_rcnn.py"))["CascadeBoxHead"]
    torch.manual_seed(0)
    head = cascade(in_channels=8, fc_channels=16, ious=(0.5,), num_classes=3, strides=(4,)).eval()
    plain = MLPBoxHead(in_channels=8, fc_channels=16, class_agnostic=True, num_classes=3, strides=(4,)).eval()
    plain.load_state_dict(head.state_dict())
    features, boxes = [torch.randn(1, 8, 16, 16)], [torch.tensor([[4.0, 4.0, 30.0, 40.0]])]
    for one, other in zip(head.predict(features, boxes)[0], plain.predict(features, boxes)[0]):
        assert torch.equal(one, other)


def test_own_objects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = runpy.run_path(str(EXAMPLES / "own_objects.py"))["main"](60)
    assert metrics["mIoU"] > 50


@pytest.mark.parametrize("count", [1, 2])
def test_predict_and_draw(tmp_path, count):
    runner = run("quickstart", SMALL, work_dir=tmp_path / "run")
    paths = []
    for index in range(count):
        paths.append(tmp_path / f"{index}.png")
        image.write(paths[-1], runner.test_set.dataset[index].image)
    out = run_script("predict_and_draw.py", str(runner.best_checkpoint()), *map(str, paths), folder=tmp_path)
    assert "probabilities (8, 64, 96)" in out
    assert image.read(tmp_path / "by_hand.png").ndim == 3
    assert len(list((tmp_path / "predictions" / "pred").iterdir())) == count
