"""Data sets with different classes in one label space."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.errors import ConfigError, UsageError
from segplug_datasets import image
from segplug_datasets.concat import ConcatDataset, MappedDataset, MixDataset
from segplug_datasets.files import FolderDataset

ROW = [0, 1, 2, 255]


def folder(root: Path, classes: tuple[str, ...], count: int = 1) -> FolderDataset:
    """A data set whose masks hold 0, 1, 2 and 255 in every row."""
    for number in range(count):
        image.write(root / f"images/{number}.jpg", np.zeros((3, 4, 3), np.uint8))
        image.write_mask(root / f"masks/{number}.png", np.array([ROW] * 3))
    return FolderDataset("images", "masks", classes, data_root=root)


@pytest.fixture
def town(tmp_path: Path) -> FolderDataset:
    return folder(tmp_path / "town", ("background", "pedestrian", "rider"), 2)


@pytest.fixture
def street(tmp_path: Path) -> FolderDataset:
    return folder(tmp_path / "street", ("background", "car", "person"), 3)


def row(dataset: Any, index: int) -> list[int]:
    return dataset[index]["seg"].array[0].tolist()


PEOPLE = {"pedestrian": "person", "rider": "person"}


def test_classes_are_declared_once(town: FolderDataset, street: FolderDataset) -> None:
    sources: Any = [{"dataset": town, "mapping": PEOPLE}, {"dataset": street}]
    mixed = pickle.loads(pickle.dumps(MixDataset(sources, ["background", "person", "car"])))
    assert len(mixed) == 5
    assert row(mixed, 0) == [0, 1, 1, 255]
    assert row(mixed, 4) == [0, 2, 1, 255]
    assert mixed.classes == ("background", "person", "car")
    assert mixed.ends == [2, 5]
    assert mixed.weights is None


def test_classes_are_the_union(town: FolderDataset, street: FolderDataset) -> None:
    sources: Any = [{"dataset": town, "mapping": {"pedestrian": "person", "rider": None}}, {"dataset": street}]
    mixed = MixDataset(sources)
    assert mixed.classes == ("background", "person", "car")
    assert row(mixed, 0) == [0, 1, 255, 255]
    assert row(mixed, 2) == [0, 2, 1, 255]
    assert mixed.palette == (town.palette[0], town.palette[1], street.palette[1])


def test_a_class_without_a_place_does_not_count(town: FolderDataset) -> None:
    assert row(MappedDataset(town, ["rider", "car"]), 0) == [255, 255, 0, 255]


def test_background_hides_what_was_not_labelled(town: FolderDataset, street: FolderDataset) -> None:
    sources: Any = [{"dataset": town, "mapping": PEOPLE, "unlabelled": ["car"]}, {"dataset": street}]
    mixed = MixDataset(sources)
    assert mixed.classes == ("background", "person", "car")
    assert row(mixed, 0) == [255, 1, 1, 255]
    assert row(mixed, 2) == [0, 2, 1, 255]


def test_another_name_for_the_background(town: FolderDataset) -> None:
    mapping = {"background": "other", **PEOPLE}
    mapped = MappedDataset(town, ["other", "person", "car"], mapping, unlabelled=["car"], background="other")
    assert row(mapped, 0) == [255, 1, 1, 255]


def test_weights_are_shares(town: FolderDataset, street: FolderDataset) -> None:
    sources: Any = [{"dataset": town, "weight": 3}, {"dataset": street}]
    assert MixDataset(sources).weights == (3.0, 1.0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"mapping": {"rieder": "person"}}, r"sources\[0\]: 'mapping' of a data set: .*did you mean 'rider'"),
        ({"mapping": {"rider": "persn"}}, "'mapping' of 'rider': .*did you mean 'person'"),
        ({"unlabelled": ["cra"]}, "'unlabelled': .*did you mean 'car'"),
        ({"mapping": {"rider": "car"}, "unlabelled": ["car"]}, "'car' is listed as unlabelled"),
        ({"unlabelled": ["background"]}, "'background' .* cannot be listed|is listed as unlabelled"),
        ({"weight": 0}, "positive number, not 0"),
        ({"weight": float("nan")}, "positive number, not nan"),
    ],
)
def test_names_that_do_not_exist(town: FolderDataset, source: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MixDataset([{"dataset": town, **source}], ["background", "person", "car"])


def test_unlabelled_needs_a_background(town: FolderDataset) -> None:
    with pytest.raises(UsageError, match="'background': no class is called 'background'"):
        MappedDataset(town, ["person", "car"], PEOPLE, unlabelled=["car"])


def test_no_sources() -> None:
    with pytest.raises(UsageError, match="at least one"):
        MixDataset([])


def test_all_options_work_in_a_config(town: FolderDataset) -> None:
    part = {"type": "FolderDataset", "images": "images", "masks": "masks", "data_root": town.data_root}
    part["classes"] = list(town.classes)
    spec = {"type": "MixDataset", "sources": [{"dataset": part, "mapping": {**PEOPLE, "background": None}}]}
    assert row(build("datasets", spec), 0) == [255, 0, 0, 255]
    with pytest.raises(ConfigError, match="unlabeled"):
        build("datasets", {"type": "MixDataset", "sources": [{"dataset": part, "unlabeled": ["car"]}]})


def test_concatenation_still_wants_one_order(town: FolderDataset, street: FolderDataset) -> None:
    with pytest.raises(UsageError, match="class 1 of datasets"):
        ConcatDataset([town, street])
    assert ConcatDataset([town, town]).ends == [2, 4]
