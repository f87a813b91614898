"""A depth model, from training to the images and files of its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel.config import Config, load_config
from segkernel.errors import ConfigError
from segkernel.experiment import make_runner
from segkernel.inference import infer
from segkernel.predictor import Predictor
from segplug_datasets import image
from segplug_datasets.nyu import NYUDataset
from segplug_heads.outputs import PixelValues


def config(root: Path, **model: Any) -> Config:
    dataset = {"type": "NYUDataset", **NYUDataset.conformance(root / "nyu")[0]}
    head = {"type": "VPDDepthHead", "in_channels": [16, 32, 64, 128], "embed_dim": 8, "feature_dim": 64,
            "num_deconv_filters": [8, 8, 8]}  # fmt: skip
    backbone = {"type": "ResNet", "depth": 18, "base_channels": 16, "out_indices": [0, 1, 2, 3]}
    slide = {"mode": "slide_flip", "crop_size": [64, 64], "stride": [32, 32]}
    return load_config({
        "model": {"type": "DepthEstimator", "backbone": backbone, "decode_head": head, "test_cfg": slide, **model},
        "data": {"train": dataset, "val": dataset, "test": dataset, "workers": 0,
                 "train_transforms": [{"type": "RandomCrop", "crop_size": [64, 64]}]},
        "optim": {"optimizer": {"type": "AdamW", "lr": 1e-3}, "batch_size": 2},
        "schedule": {"iterations": 4, "val_interval": 4},
        "evaluate": {"metrics": [{"type": "DepthMetric", "max_depth_eval": 10.0}]},
        "hooks": [{"type": "PicturesHook", "labels_dir": str(root / "depths"), "count": 1}],
        "work_dir": str(root / "run"),
    })  # fmt: skip


def test_depth_model_is_trained_evaluated_and_written(tmp_path: Path) -> None:
    runner = make_runner(config(tmp_path))
    metrics = runner.run()
    assert {"rmse", "d1", "abs_rel"} <= metrics.keys()
    assert all(np.isfinite(value) for value in metrics.values())
    (path,) = (tmp_path / "run" / "pictures").rglob("*.png")
    colours = image.read(path)
    assert (colours[..., 0] != colours[..., 2]).any()  # colours from blue to red, not blended with the image
    files = sorted((tmp_path / "depths").rglob("*.png"))
    assert len(files) == len(runner.test_set.dataset)
    assert image.read_mask(files[0]).max() <= 10_000  # in thousandths; depths are at most 10

    checkpoint = min((tmp_path / "run" / "checkpoints").glob("*.pt"))
    depths = Predictor(str(checkpoint))(np.zeros((70, 90, 3), np.uint8)).labels
    assert depths.shape == (70, 90)
    assert depths.dtype == torch.float32


def test_a_classification_head_is_refused(tmp_path: Path) -> None:
    head = {"type": "FCNHead", "in_channels": 128, "channels": 8, "num_classes": 4}
    with pytest.raises(ConfigError, match="FCNHead gives logits of classes, not depths"):
        make_runner(config(tmp_path, decode_head=head))


def test_slide_flip_is_the_mean_of_an_image_and_its_mirror() -> None:
    images = torch.rand(1, 3, 40, 60)
    ramp = torch.linspace(0, 1, 32)

    def predict(crop: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"seg": crop[:, :1] * ramp}

    outputs = {"seg": PixelValues()}
    found = infer(predict, images, outputs, {"mode": "slide_flip", "crop_size": (40, 32), "stride": (40, 28)})
    both = (ramp + ramp.flip(0)) / 2
    whole = infer(predict, images[..., :32], outputs, {"mode": "whole_flip"})
    torch.testing.assert_close(whole["seg"], images[:, :1, :, :32] * both)
    torch.testing.assert_close(found["seg"][..., :28], images[:, :1, :, :28] * both[:28])
