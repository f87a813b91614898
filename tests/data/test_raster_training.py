"""Training on rasters of four bands, from the files to the metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segkernel import load_config, run
from segplug_datasets import image


def test_a_model_trains_on_four_bands(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / f"images/{name}.npy", rng.integers(0, 10_000, (32, 48, 5), np.uint16))
        image.write_mask(tmp_path / f"masks/{name}.png", rng.integers(0, 3, (32, 48)))
    part = {"type": "RasterDataset", "images": "images", "masks": "masks", "classes": ["a", "b", "c"],
            "data_root": str(tmp_path), "bands": [0, 1, 2, 4], "window": [32, 32], "scale": 0.0001}  # fmt: skip
    config = {
        "model": {
            "type": "EncoderDecoder",
            "backbone": {"type": "ResNet", "depth": 18, "base_channels": 4, "in_channels": 4},
            "decode_head": {"type": "FCNHead", "in_channels": 32, "channels": 8, "num_convs": 1, "num_classes": 3,
                            "in_index": 3, "concat_input": False},
        },
        "data": {"train": part, "val": part, "preprocess": {"mean": [0.5] * 4, "std": [0.3] * 4, "size": [32, 32]},
                 "train_transforms": [{"type": "RandomFlip", "prob": 0.5}], "workers": 0},
        "optim": {"optimizer": {"type": "SGD", "lr": 0.01}, "batch_size": 2},
        "schedule": {"iterations": 2},
        "evaluate": {"metrics": [{"type": "IoUMetric"}]},
    }  # fmt: skip
    runner = run(load_config(config), work_dir=str(tmp_path / "run"))
    assert runner.iteration == 2
    assert 0 <= runner.metrics["mIoU"] <= 100
