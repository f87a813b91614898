"""Packed and cached data sets behind the loader return the same batches as the files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segplug_datasets import image
from segplug_datasets.cache import CachedDataset
from segplug_datasets.files import FolderDataset
from segplug_datasets.packed import pack
from segplug_datasets.transforms.color import PhotoMetricDistortion
from segplug_datasets.transforms.place import RandomCrop, RandomFlip


@pytest.mark.skipif(sys.platform == "win32", reason="cannot fork; starting workers afresh takes long")
def test_batches_equal_those_of_the_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from segkernel.data import Loader

    rng = np.random.default_rng(0)
    for number in range(5):
        image.write(tmp_path / f"images/{number}.jpg", rng.integers(0, 256, (60, 80, 3), np.uint8))
        image.write_mask(tmp_path / f"masks/{number}.png", rng.integers(0, 2, (60, 80)))
    original = FolderDataset("images", "masks", data_root=tmp_path)
    transforms: Any = [RandomFlip(prob=0.5), RandomCrop(crop_size=(32, 32)), PhotoMetricDistortion()]

    def batches(dataset: Any, workers: int) -> list[Any]:
        loader = Loader(dataset, transforms, micro_batch=2, workers=workers, start_method="fork")
        drawn = loader.train_batches()
        found = [next(drawn) for _ in range(6)]  # more than an epoch: what a transform wrote must not come back
        return [*found, *Loader(dataset, [], workers=workers, start_method="fork").eval_batches()]

    expected = batches(original, 0)
    for dataset in (pack(original, tmp_path / "packed"), CachedDataset(original, 1e6, tmp_path)):
        for one, other in zip(expected, batches(dataset, 1), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets["seg"], other.targets["seg"])
            assert [meta["path"] for meta in one.meta] == [meta["path"] for meta in other.meta]
