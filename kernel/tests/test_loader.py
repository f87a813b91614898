"""Loading: samplers, timing, shared memory."""

from __future__ import annotations

import time
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch.multiprocessing  # noqa: F401  tells the pickler how tensors travel

from segkernel.data import Loader
from segkernel.errors import UsageError
from segkernel.interfaces.data import Sampler


class Backwards:
    """Visits the samples from the last to the first."""

    def order(self, dataset, seed, epoch, batch):
        return [*range(len(dataset) - 1, -1, -1)]


class Slow:
    """Takes its time."""

    needs = 0

    def __init__(self, seconds=0.01):
        self.seconds = seconds

    def __call__(self, sample, rng):
        time.sleep(self.seconds)
        return sample


def names(loader, count, **where):
    return [m["name"] for batch in islice(loader.train_batches(**where), count) for m in batch.meta]


# ---------------------------------------------------------------- draw order


def test_a_sampler_decides_the_order(rectangles):
    assert isinstance(Backwards(), Sampler)
    loader = Loader(rectangles(5), micro_batch=2, sampler=Backwards())
    assert names(loader, 3) == [f"image_{i}" for i in (4, 3, 2, 1, 0, 4)]
    assert names(loader, 1, position=4) == ["image_0", "image_4"]
    assert names(loader, 1, rank=1, world_size=2) == ["image_2", "image_1"]


def test_a_sampler_is_asked_once_for_each_epoch(rectangles):
    asked = []

    class Noted(Backwards):
        def order(self, dataset, seed, epoch, batch):
            asked.append((seed, epoch, batch))
            return super().order(dataset, seed, epoch, batch)

    names(Loader(rectangles(4), micro_batch=2, sampler=Noted(), seed=9), 5)
    assert asked == [(9, 0, 2), (9, 1, 2), (9, 2, 2)]


def test_a_sampler_has_no_effect_in_evaluation(rectangles):
    loader = Loader(rectangles(4), sampler=Backwards())
    assert [m["name"] for batch in loader.eval_batches() for m in batch.meta] == [f"image_{i}" for i in range(4)]


def test_a_sampler_of_the_wrong_length_is_refused(rectangles):
    class Short:
        def order(self, dataset, seed, epoch, batch):
            return [0, 1]

    with pytest.raises(UsageError, match="Short draws 2 of 4 samples"):
        next(Loader(rectangles(4), sampler=Short()).train_batches())


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_has_the_seconds_of_each_stage(rectangles, workers):
    loader = Loader(rectangles(), [Slow()], micro_batch=3, workers=workers)
    for batch in islice(loader.train_batches(), 4):
        assert list(batch.seconds) == ["decode", "Slow", "resample", "collate"]
        assert batch.seconds["Slow"] >= 0.01 * len(batch)
        assert all(value >= 0 for value in batch.seconds.values())


def test_reading_and_decoding_are_timed_separately(rectangles, tmp_path, monkeypatch):
    from pathlib import Path

    import cv2

    from segkernel import image

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (time.sleep(0.2), plain(path))[1])

    class Files(rectangles):
        def __getitem__(self, index):
            image.read(tmp_path / "a.png")
            time.sleep(0.005)
            return super().__getitem__(index)

    seconds = next(Loader(Files(2)).train_batches()).seconds
    assert seconds["read"] >= 0.2
    assert 0.005 <= seconds["decode"] < 0.2


# ---------------------------------------------------------------- shared memory


def test_batches_of_workers_arrive_in_shared_memory(rectangles):
    loader = Loader(rectangles(), micro_batch=2, workers=1)
    batch = next(loader.train_batches())
    assert batch.images.is_shared()
    assert batch.targets["seg"].is_shared()
    (batch,) = islice(loader.eval_batches(), 1)
    assert batch.images.is_shared()
    assert batch.truths[0]["seg"].is_shared()


def test_the_pickle_of_a_batch_does_not_grow_with_its_pixels(rectangles):
    batch = next(Loader(rectangles(size=(256, 256)), micro_batch=2).train_batches())
    assert batch.images.nbytes > 300_000
    assert len(ForkingPickler.dumps(batch)) < 5_000
