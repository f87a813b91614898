"""Wrappers of data sets, and the file list that workers share."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.data import Loader
from segkernel.errors import DataError, UsageError
from segkernel.sample import Sample
from segplug_datasets import image
from segplug_datasets.filelist import FileList
from segplug_datasets.files import FolderDataset
from segplug_datasets.wrappers import (
    ClassBalancedDataset,
    IndexedDataset,
    MultiImageMixDataset,
    RepeatDataset,
    repeat_factors,
)

CLASSES = ("wall", "door", "window")
PALETTE = ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.fixture
def rooms(tmp_path: Path) -> FolderDataset:
    """Ten images, each of its own grey; one with a door, two with a window."""
    for number in range(10):
        mask = np.zeros((8, 8), np.uint8)
        mask[0, 0] = 1 if number == 0 else 2 if number < 3 else 0
        image.write(tmp_path / f"images/{number}.png", np.full((8, 8, 3), 10 * number, np.uint8))
        image.write_mask(tmp_path / f"masks/{number}.png", mask)
    return FolderDataset("images", "masks", classes=CLASSES, palette=PALETTE, data_root=tmp_path)


class Blend:
    """Halves of two images."""

    needs = 1

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        sample.image = sample.image // 2 + more[0].image // 2
        return sample


class Reject:
    needs = 0

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> None:
        return None


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "repeat": lambda dataset: RepeatDataset(dataset, 2),
    "balanced": lambda dataset: ClassBalancedDataset(dataset, 0.4),
    "mix": lambda dataset: MultiImageMixDataset(dataset, [Blend()]),
    "indexed": IndexedDataset,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_classes_colours_and_labels_are_passed_on(rooms: FolderDataset, wrap: Callable[[Any], Any]) -> None:
    for dataset in (wrap(rooms), pickle.loads(pickle.dumps(wrap(rooms)))):
        assert dataset.classes == CLASSES
        assert dataset.palette == PALETTE
        assert dataset.labels == rooms.labels
        assert dataset.data_root == rooms.data_root
        assert dataset[-1]["seg"].array.shape == (8, 8)
        with pytest.raises(IndexError):
            dataset[len(dataset)]


def grey(dataset: Any) -> list[int]:
    return [int(dataset[i].image[0, 0, 0]) // 10 for i in range(len(dataset))]


def test_repeated_one_after_the_other(rooms: FolderDataset) -> None:
    assert grey(RepeatDataset(rooms, 3)) == [*range(10)] * 3
    assert RepeatDataset(rooms, 3).class_index().pixels[20].tolist() == [63, 1, 0]
    with pytest.raises(UsageError, match="not 0"):
        RepeatDataset(rooms, 0)


def test_repeat_factors_by_hand() -> None:
    present = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]], bool)  # shares 3/4, 1/4, 0
    assert repeat_factors(present, 1.0).tolist() == [2.0, *[(4 / 3) ** 0.5] * 2, 1.0]
    assert repeat_factors(present, 0.5).tolist() == pytest.approx([2**0.5, 1, 1, 1])


def test_images_of_rare_classes_are_repeated(rooms: FolderDataset) -> None:
    # Door: ceil(sqrt(0.4 / 0.1)) = 2. Window: ceil(sqrt(0.4 / 0.2)) = 2.
    assert grey(ClassBalancedDataset(rooms, 0.4)) == [0, 0, 1, 1, 2, 2, *range(3, 10)]
    assert grey(ClassBalancedDataset(rooms, 0.4, min_pixels=2)) == [*range(10)]
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        ClassBalancedDataset(rooms, 0)


def test_a_mix_draws_its_other_samples_from_the_set(rooms: FolderDataset) -> None:
    mixed = MultiImageMixDataset(rooms, [Blend()])
    np.random.seed(0)
    values = {int(mixed[9].image[0, 0, 0]) for _ in range(60)}
    assert values == {45 + 5 * other for other in range(10)}


def test_a_mix_in_training_is_the_same_whatever_the_workers(rooms: FolderDataset) -> None:
    def images(workers: int, position: int = 0) -> list[Any]:
        loader = Loader(MultiImageMixDataset(rooms, [Blend()]), micro_batch=2, workers=workers)
        return [batch.images for batch in islice(loader.train_batches(position), 8 - position // 2)]

    whole = images(0)
    assert all((a == b).all() for a, b in zip(whole, images(2)))
    assert all((a == b).all() for a, b in zip(whole[3:], images(0, position=6)))


def test_transforms_of_a_mix_can_be_left_out(rooms: FolderDataset) -> None:
    assert grey(MultiImageMixDataset(rooms, [Blend(), Reject()], ["Blend", "Reject"])) == [*range(10)]


def test_a_rejected_mix_is_an_error_of_its_sample(rooms: FolderDataset) -> None:
    with pytest.raises(DataError, match="rejected") as caught:
        MultiImageMixDataset(rooms, [Reject()])[2]
    assert "2.png" in str(caught.value)


def test_wrappers_come_from_a_config(rooms: FolderDataset) -> None:
    inner = {"type": "FolderDataset", "images": "images", "masks": "masks", "classes": list(CLASSES)}
    inner["data_root"] = rooms.data_root
    pipeline = [{"type": "RandomFlip", "prob": 0.5}]
    mix = {"type": "MultiImageMixDataset", "dataset": inner, "pipeline": pipeline, "skip_type_keys": ["RandomFlip"]}
    assert len(build("datasets", {"type": "RepeatDataset", "dataset": mix, "times": 4})) == 40


# ---------------------------------------------------------------- file list


FILES = [("a", "x/a.jpg", "y/a.png"), ("ü/b", "x/ü/b.jpg", None), ("", "x/.jpg", ""), ("\udce4", "\udce4.jpg", None)]


def test_a_file_list_gives_back_what_it_was_given() -> None:
    files = FileList(FILES)
    assert list(files) == FILES
    assert files[-1] == FILES[-1]
    assert files[1:3] == FILES[1:3]
    assert list(pickle.loads(pickle.dumps(files))) == FILES
    assert len(FileList([])) == 0
    with pytest.raises(IndexError):
        files[4]


def test_a_file_list_is_two_objects_however_long() -> None:
    files = FileList([(f"{n}", f"images/{n}.jpg", f"masks/{n}.png") for n in range(10_000)])
    assert len(pickle.dumps(files)) < 10_000 * 60
    assert {type(value) for value in vars(files).values()} == {np.ndarray, bytes}
