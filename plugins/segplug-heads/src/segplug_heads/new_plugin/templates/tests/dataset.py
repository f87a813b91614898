from __future__ import annotations

from pathlib import Path

import pytest

from segkernel.errors import DataError
from segplug_my_model.dataset import MyModelDataset


def test_images_and_labels_are_read_from_two_folders(tmp_path: Path) -> None:
    dataset = MyModelDataset(**MyModelDataset.conformance(tmp_path))
    sample = dataset[1]
    assert len(dataset) == 2
    assert sample.meta["name"] == "b"
    assert sample.image.shape == (24, 32, 3)
    assert sample["seg"].array.shape == (24, 32)


def test_a_missing_label_map_is_named(tmp_path: Path) -> None:
    dataset = MyModelDataset(**MyModelDataset.conformance(tmp_path))
    (tmp_path / "labels" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        dataset[0]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        MyModelDataset(str(tmp_path))
