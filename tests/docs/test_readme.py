"""The README's blocks do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from segkernel import Predictor, load_config
from segkernel.cli import cli
from segkernel.experiment import run
from segplug_datasets import image

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def block(language: str, text: str) -> str:
    """Return the block of ``language`` that holds ``text``."""
    return next(found for found in re.findall(rf"```{language}\n(.*?)```", README, re.S) if text in found)


@pytest.fixture
def cracks(tmp_path, monkeypatch):
    """A folder of images and masks, and what ``seg-kernel init`` writes for it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(8):
        mask = np.zeros((70, 90), np.uint8)
        mask[20 + index : 24 + index] = 1
        pixels = np.where(mask[..., None] > 0, 60, 180) + rng.integers(-20, 20, (70, 90, 3))
        image.write(tmp_path / f"my_folder/images/{index}.png", pixels.astype(np.uint8))
        image.write_mask(tmp_path / f"my_folder/masks/{index}.png", mask)
    (tmp_path / "my_folder/classes.txt").write_text("background\ncrack\n")
    cli.main(args=["init", "my_folder"], standalone_mode=False)
    return tmp_path


QUICK = ["schedule.iterations=4", "schedule.val_interval=4", "optim.batch_size=2", "data.workers=0"]


def test_your_own_images_need_one_file(cracks):
    written = load_config("my.yaml")["data"]
    (cracks / "brief.yaml").write_text(block("yaml", "FolderDataset"))
    assert all(load_config("brief.yaml")["data"][name] == written[name] for name in ("train", "val", "test"))
    runner = run("my.yaml", ["optim.optimizer.lr=1e-3", *QUICK])
    assert {"IoU.background", "IoU.crack"} <= runner.metrics.keys()
    predictor = Predictor(runner.best_checkpoint())
    prediction = predictor("my_folder/images/0.png")
    assert prediction.labels.shape == (70, 90)
    assert predictor.classes == ("background", "crack")
    shown = (cracks / "my_test.txt").read_text().split()
    assert len(list((runner.work_dir / "pictures").iterdir())) == len(shown) > 0


def test_a_head_of_one_s_own_is_named_by_its_import_path(cracks, monkeypatch):
    (cracks / "my_heads.py").write_text(block("python", "class OneConvHead"))
    monkeypatch.syspath_prepend(cracks)
    head = "model.decode_head={type: 'my_heads:OneConvHead', in_channels: 256, channels: 16, num_classes: 2}"
    runner = run("my.yaml", [head, *QUICK])
    assert type(runner.model.decode_head).__name__ == "OneConvHead"
