"""A tiny run in an empty folder, and the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segplug_datasets import image

CLASSES = ["ground", "sky", "wall"]


def config() -> dict[str, Any]:
    data = {"type": "FolderDataset", "images": "images", "masks": "masks", "classes": CLASSES}
    return {
        "model": {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNetV1c", "depth": 18, "base_channels": 4, "stem_channels": 4},
            "decode_head": {
                "type": "FCNHead", "in_channels": 32, "in_index": 3, "channels": 4, "num_convs": 1,
                "num_classes": 3, "norm_cfg": {"type": "BN"}, "dropout_ratio": 0.0,
            },
        },
        "data": {"train": data, "val": data, "test": data, "train_transforms": [], "workers": 0},
        "optim": {"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}, "batch_size": 2},
        "schedule": {"iterations": 2, "val_interval": 2},
        "evaluate": {"metrics": [{"type": "IoUMetric"}]},
        "engine": {"type": "LocalEngine", "device": "cpu"},
        "hooks": [{"type": "PicturesHook", "count": 0}, {"type": "CheckpointHook", "interval": 1}],
        "work_dir": "run",
    }  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, masks, ``my.yaml`` and a finished run of two iterations, ``run``."""
    from segkernel import run

    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for number in range(4):
            rng = np.random.default_rng(number)
            image.write(Path("images", f"{number}.png"), rng.integers(0, 256, (32, 48, 3), np.uint8))
            image.write_mask(Path("masks", f"{number}.png"), rng.integers(0, 3, (32, 48), np.uint8))
        Path("my.yaml").write_text(yaml.safe_dump(config()))
        run("my.yaml")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the working directory."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return Path()


@pytest.fixture
def seg_kernel(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process; return its exit code and all it has written."""
    from segkernel.cli import main

    def command(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        done = capfd.readouterr()
        assert "Traceback" not in done.err
        return int(caught.value.code or 0), done.out + done.err

    return command
