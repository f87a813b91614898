"""StreetScenes: deterministic images that contain all classes and are drawn quickly."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from segkernel.errors import UsageError
from segkernel.interfaces.data import Dataset
from segplug_datasets.street_scenes import StreetScenes


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    first, again = StreetScenes(length=3)[2], StreetScenes(length=50)[2]
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first["seg"].array, again["seg"].array)
    for other in (StreetScenes()[1], StreetScenes("val")[2], StreetScenes(seed=1)[2]):
        assert not np.array_equal(first.image, other.image)


def test_another_process_draws_the_same() -> None:
    code = "import zlib; from segplug_datasets.street_scenes import StreetScenes as S; print(zlib.crc32(S()[7].image))"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    import zlib

    StreetScenes("val")[3]  # what was drawn before has no influence
    assert int(fresh) == zlib.crc32(StreetScenes()[7].image)


@pytest.mark.parametrize("size", [(32, 32), (96, 128), (65, 301), (300, 700)])
def test_every_size(size: tuple[int, int]) -> None:
    dataset = StreetScenes(size=size)
    for index in range(4):
        sample = dataset[index]
        assert sample.image.shape == (*size, 3)
        assert sample.image.dtype == sample["seg"].array.dtype == np.uint8
        assert sample["seg"].array.shape == size


def test_every_class_occurs_and_none_is_everything() -> None:
    dataset = StreetScenes(length=40)
    counts = sum(np.bincount(sample["seg"].array.ravel(), minlength=8) for sample in dataset)  # type: ignore
    shares = counts / counts.sum()
    assert len(shares) == len(dataset.classes) == len(dataset.palette) == 8
    assert shares.min() > 0.004
    assert shares.max() < 0.5


def test_colour_alone_does_not_tell_the_class() -> None:
    train, test = StreetScenes(length=40), StreetScenes("test", length=15)

    def codes(sample: object) -> np.ndarray:
        return (sample.image // 32).astype(int) @ (64, 8, 1)  # type: ignore[attr-defined]

    table = np.zeros((512, 8))
    for sample in train:  # type: ignore[attr-defined]
        np.add.at(table, (codes(sample).ravel(), sample["seg"].array.ravel()), 1)
    guess = table.argmax(1)
    hits = [np.mean(guess[codes(sample)] == sample["seg"].array) for sample in test]  # type: ignore[attr-defined]
    assert np.mean(hits) < 0.7


def test_the_contract_of_a_data_set() -> None:
    dataset = StreetScenes(length=2)
    assert isinstance(dataset, Dataset)
    assert dataset.labels.classes == dataset.classes
    assert len(list(dataset)) == 2  # type: ignore[call-overload]
    with pytest.raises(IndexError):
        dataset[2]
    sample = pickle.loads(pickle.dumps(dataset))[0]
    assert sample.meta == {"path": "StreetScenes/train_00000", "name": "train_00000"}


def test_usual_lengths() -> None:
    assert [len(StreetScenes(split)) for split in ("train", "val", "test")] == [1000, 100, 200]  # type: ignore


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"size": (16, 64)}, {"length": -1}])
def test_impossible_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        StreetScenes(**wrong)  # type: ignore[arg-type]
