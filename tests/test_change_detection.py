"""A Siamese network learns to detect new boxes between two images, from files in the layout of LEVIR-CD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import Predictor, run
from segplug_datasets import image

export_model = pytest.importorskip("segplug_deploy.export").export_model

SIZE = (64, 64)


def write_pairs(folder: Path, count: int, seed: int) -> None:
    """Write pairs of noisy images of the same background; boxes that are new in the second image are the change."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        before = np.full((*SIZE, 3), rng.integers(60, 120, 3), np.uint8)
        draw_boxes(before, rng, 2)
        after, changed = before.copy(), np.zeros(SIZE, np.uint8)
        for box in draw_boxes(after, rng, rng.integers(1, 4)):
            changed[box] = 255
        for name, pixels in (("A", before), ("B", after)):
            noisy = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
            image.write(folder / name / f"{index}.png", noisy)
        image.write_mask(folder / "label" / f"{index}.png", changed)


def draw_boxes(pixels: np.ndarray, rng: np.random.Generator, count: int) -> list[tuple[slice, slice]]:
    """Draw bright boxes and return their slices."""
    boxes = []
    for _ in range(count):
        (top, left), (height, width) = rng.integers(0, 44, 2), rng.integers(12, 20, 2)
        boxes.append((slice(top, top + height), slice(left, left + width)))
        pixels[boxes[-1]] = rng.integers(170, 250, 3)
    return boxes


def config(folder: Path, model: dict[str, Any], width: int) -> dict[str, Any]:
    data = {"type": "LEVIRCDDataset", "data_root": str(folder)}
    parts = {
        part: {
            **data,
            "data_prefix": {"img_path": f"{part}/A", "img_path2": f"{part}/B", "seg_map_path": f"{part}/label"},
        }
        for part in ("train", "test")
    }
    backbone = {"type": "MSCAN", "embed_dims": [8, 16], "mlp_ratios": [2, 2], "depths": [1, 1], "num_stages": 2}
    head = {"type": "FCNHead", "in_channels": width, "in_index": 0, "channels": 16, "num_convs": 1, "num_classes": 2}
    norm = {"type": "BN"}
    return {
        "model": {
            "type": "SiamEncoderDecoder",
            "backbone": {**backbone, "norm_cfg": norm},
            "decode_head": {**head, "norm_cfg": norm},
            **model,
        },
        "data": {
            "train": parts["train"],
            "val": parts["test"],
            "train_transforms": [{"type": "RandomFlip", "prob": 0.5}, {"type": "ConcatCDInput"}],
            "eval_transforms": [{"type": "ConcatCDInput"}],
            "preprocess": {"mean": [110.0] * 6, "std": [50.0] * 6, "size": list(SIZE)},
            "workers": 0,
        },
        "optim": {"optimizer": {"type": "AdamW", "lr": 1e-2}, "batch_size": 8},
        "schedule": {"iterations": 200, "val_interval": 200, "lr": [{"type": "PolyLR", "power": 0.9}]},
        "engine": {"type": "LocalEngine", "device": "cpu", "threads": 1},
        "evaluate": {"metrics": [{"type": "IoUMetric"}]},
        "seed": 1,
    }


BRANCH = {"type": "MSCAN", "in_channels": 6, "embed_dims": [4, 4], "mlp_ratios": [2, 2], "depths": [1, 1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "width"),
    [
        ({}, 16),
        ({"fusion": "difference"}, 8),
        ({"fusion": "difference", "branch": {**BRANCH, "num_stages": 2, "norm_cfg": {"type": "BN"}}}, 12),
    ],
    ids=["concat", "difference", "branch"],
)
def test_change_is_learnt(tmp_path: Path, model: dict[str, Any], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "data" / "train", 40, seed=0)
    write_pairs(tmp_path / "data" / "test", 10, seed=1)
    metrics = run(config(tmp_path / "data", model, width)).metrics
    assert metrics["IoU.changed"] > 40  # to call everything changed gets a tenth


@pytest.mark.slow
def test_an_export_of_change_detection_is_proven_on_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        write_pairs(tmp_path / "data" / part, 2, seed=0)
    given = config(tmp_path / "data", {"fusion": "difference"}, 8)
    given["schedule"] = {"iterations": 1}
    given["optim"]["batch_size"] = 2
    path = run(given, work_dir="run").work_dir / "checkpoints" / "iter_0000001.pt"
    pair = ("data/test/A/0.png", "data/test/B/0.png")
    written = export_model(path, image=pair)
    expected, found = (Predictor(file)(pair).labels for file in (path, written))
    assert (expected == found).all()
