"""A small run for tests of hooks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel import Evaluation, Loader, Runner
from segkernel.engine import LocalEngine
from segkernel.sample import LabelMap, Sample
from segkernel.testing.toys import ToySegmentor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which compiling a model does as well


class Stripes:
    """Eight images of four classes."""

    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        labels = np.arange(16, dtype=np.uint8).repeat(16).reshape(16, 16) // 4
        image = np.random.default_rng(index).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        return Sample({"seg": LabelMap(labels)}, {"name": f"image_{index}"}, image)


@pytest.fixture
def make_runner(tmp_path: Path) -> Callable[..., Runner]:
    """Return a function that makes a run of a toy model on `Stripes`, validated with its loss."""

    def make(*hooks: Any, folder: str = "run", validate: bool = True, **changes: Any) -> Runner:
        torch.manual_seed(0)
        model = changes.pop("model", None) or ToySegmentor()
        given: dict[str, Any] = {
            "train": Loader(Stripes(), seed=0),  # micro-batches of one image
            "val": Stripes() if validate else None,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
            "iterations": 6,
            "val_interval": 2,
            "batch_size": 2,
            "evaluation": Evaluation(loss=True),
            "engine": LocalEngine("cpu"),
            "work_dir": tmp_path / folder,
        }
        return Runner(model, hooks=hooks, **{**given, **changes})

    return make
