"""The loader: the same samples for any number of workers, ranks and restarts."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from segkernel.data import Loader, apply_transforms
from segkernel.errors import DataError, TrainingError, UsageError, worker_crash_of
from segkernel.geometry import Geometry
from segkernel.sample import Sample


class Halved(Geometry):
    """Every second row and column."""

    only_scales = True

    def size(self, size):
        return size[0] // 2, size[1] // 2

    def raster(self, array, interpolation, fill):
        return array[::2, ::2]


class Cut(Halved):
    """The upper left quarter."""

    only_scales = False

    def raster(self, array, interpolation, fill):
        return array[: array.shape[0] // 2, : array.shape[1] // 2]


class Jitter:
    """Uses its generator and, as third-party code does, the global ones."""

    needs = 0

    def __init__(self, flips=0.5):
        self.flips = flips

    def __call__(self, sample, rng):
        if rng.random() < self.flips:
            sample.image = sample.image[:, ::-1]
        noise = np.random.randint(0, 9, sample.image.shape) + int(torch.randint(9, ()))
        sample.image = np.clip(sample.image + noise, 0, 255).astype(np.uint8)
        return sample


class Blend:
    """Needs a second sample."""

    needs = 1

    def __call__(self, sample, rng, other):
        sample.image = (sample.image // 2 + other.image // 2).astype(np.uint8)
        return sample


class FailsAt:
    """Has a bug at one index."""

    def __init__(self, index):
        self.index = index

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return Sample(image=np.full((4, 4, 3), 1 // (index != self.index), np.uint8))


def batches(loader, count, **where):
    return [batch.images for batch in islice(loader.train_batches(**where), count)]


@pytest.mark.parametrize("workers", [2, 4])
def test_batches_are_the_same_for_any_number_of_workers(rectangles, workers):
    make = lambda n: Loader(rectangles(), [Jitter(), Blend()], micro_batch=3, workers=n, seed=7)  # noqa: E731
    for ours, theirs in zip(batches(make(0), 6), batches(make(workers), 6)):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_continues_where_it_stopped(rectangles, workers):
    loader = Loader(rectangles(), [Jitter()], micro_batch=3, workers=workers)
    whole = batches(loader, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], batches(loader, 2, position=12)))


def test_two_ranks_share_the_samples_of_one_rank(rectangles):
    one = batches(Loader(rectangles(), [Jitter()], micro_batch=4), 3)
    two = [batches(Loader(rectangles(), [Jitter()], micro_batch=2), 3, rank=r, world_size=2) for r in (0, 1)]
    for whole, first, second in zip(one, *two):
        assert torch.equal(whole, torch.cat([first, second]))


def test_the_seed_of_a_sample_does_not_depend_on_the_ranks(rectangles):
    def seeds(count, **where):
        loader = Loader(rectangles(), micro_batch=count)
        return [batch.targets.meta["seeds"] for batch in islice(loader.train_batches(**where), 3)]

    one, two = seeds(4), [seeds(2, rank=rank, world_size=2) for rank in (0, 1)]
    assert one == [first + second for first, second in zip(*two)]
    assert len({seed for seeds in one for seed in seeds}) == 12


def test_an_epoch_visits_every_sample_once(rectangles):
    names = [m["name"] for b in islice(Loader(rectangles(), micro_batch=4).train_batches(), 3) for m in b.meta]
    assert sorted(names) == sorted(f"image_{i}" for i in range(12))


def test_loading_does_not_change_the_global_generators(rectangles):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    for workers in (0, 2):
        batches(Loader(rectangles(), [Jitter()], workers=workers), 2)
    list(Loader(rectangles(), [Jitter(flips=0)]).eval_batches())
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_other_batches(rectangles):
    first, second = (batches(Loader(rectangles(), [Jitter()], seed=seed), 1)[0] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_a_rejected_sample_is_replaced(rectangles):
    class Reject:
        needs = 0

        def __call__(self, sample, rng):
            return None if sample.meta["name"] == "image_3" else sample

    loader = Loader(rectangles(), [Reject()], micro_batch=12)
    assert "image_3" not in [m["name"] for m in next(loader.train_batches()).meta]


def test_evaluation_never_pads_and_keeps_truth_at_the_original_size(rectangles):
    class Sizes(rectangles):
        def __getitem__(self, index):
            self.size = (24, 32) if index % 2 else (32, 24)
            return super().__getitem__(index)

    class Half:
        needs = 0

        def __call__(self, sample, rng):
            return sample.apply(Halved())

    found = list(Loader(Sizes(4), [Half()], micro_batch=4).eval_batches())
    assert [len(batch) for batch in found] == [2, 2]
    assert found[0].images.shape[-2:] == (16, 12)
    assert found[0].truths[0]["seg"].shape == (32, 24)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_data_set_is_reported_with_the_sample(workers):
    loader = Loader(FailsAt(5), micro_batch=2, workers=workers, shuffle=False)
    for found in (loader.train_batches(), loader.eval_batches()):
        with pytest.raises(TrainingError) as caught:
            list(islice(found, 9))
        said = worker_crash_of(caught.value) or caught.value
        assert str(said).startswith("sample 5: ZeroDivisionError: ")
    loader.close()


def test_evaluation_refuses_transforms_that_crop_the_image(rectangles):
    class Quarter:
        needs = 0

        def __call__(self, sample, rng):
            return sample.apply(Cut())

    with pytest.raises(DataError, match="may only resize, not cut"):
        list(Loader(rectangles(2), [Quarter()]).eval_batches())


def test_evaluation_shares_are_disjoint_and_complete(rectangles):
    names = [m["name"] for r in (0, 1) for b in Loader(rectangles(5)).eval_batches(r, 2) for m in b.meta]
    assert sorted(names) == [f"image_{i}" for i in range(5)]


@pytest.mark.parametrize("which", ["train_batches", "eval_batches"])
def test_an_empty_set_is_refused(rectangles, which):
    with pytest.raises(DataError, match="empty"):
        next(getattr(Loader(rectangles(0)), which)())


def test_a_transform_that_needs_more_samples_cannot_be_used_alone(rectangles):
    with pytest.raises(UsageError, match="Blend needs 1"):
        apply_transforms([Blend()], rectangles()[0], np.random.default_rng(0))


def test_images_of_different_channels_are_not_batched(rectangles):
    class Mixed(rectangles):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample.image = sample.image[..., : 3 if index % 2 else 1]
            return sample

    with pytest.raises(DataError, match="channels"):
        next(Loader(Mixed(), micro_batch=4).train_batches())


def test_a_batch_moves_and_detaches_as_one(rectangles):
    batch = next(Loader(rectangles(), micro_batch=2).train_batches())
    assert batch.to("cpu").detach().targets["seg"].shape == (2, 24, 32)
    assert isinstance(Sample(image=np.zeros((2, 3, 3), np.uint8)).get("seg"), type(None))
