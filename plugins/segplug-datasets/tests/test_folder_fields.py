"""Several label folders, weights and depth next to the images; lists with two columns; subsets of samples."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.errors import DataError, UsageError
from segkernel.sample import DepthMap, LabelMap, WeightMap
from segplug_datasets import image
from segplug_datasets.cityscapes import CityscapesDataset
from segplug_datasets.files import FolderDataset

SIZE = (6, 8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images; label folders masks (0, 1, 2) and parts (10, 20), weights, depth in millimetres."""
    for number, name in enumerate("ab"):
        image.write(tmp_path / f"images/{name}.jpg", np.full((*SIZE, 3), 80, np.uint8))
        image.write_mask(tmp_path / f"masks/{name}.png", np.full(SIZE, number + 1))
        image.write_mask(tmp_path / f"parts/{name}.png", np.full(SIZE, (number + 1) * 10))
        image.write_mask(tmp_path / f"weights/{name}.png", np.full(SIZE, 51 * number))
        image.write_mask(tmp_path / f"far/{name}.png", np.full(SIZE, 2500))
    return tmp_path


def folder(root: Path, **arguments: Any) -> FolderDataset:
    return FolderDataset(
        **{"images": "images", "masks": "masks", "classes": ("x", "y", "z"), "data_root": root, **arguments}
    )


# ---------------------------------------------------------------- fields


def test_several_label_folders_have_their_own_classes(root: Path) -> None:
    parts = {"path": "parts", "classes": ["head", "torso"], "values": {10: 0, 20: 1}}
    dataset = folder(root, masks={"seg": "masks", "parts": parts})
    sample = pickle.loads(pickle.dumps(dataset))[1]
    assert isinstance(sample["parts"], LabelMap)
    assert (sample["seg"].array == 2).all()
    assert (sample["parts"].array == 1).all()
    assert dataset.classes == ("x", "y", "z")
    assert dataset.specs["parts"].classes == ("head", "torso")


def test_a_label_folder_without_classes_has_those_of_the_set(root: Path) -> None:
    dataset = folder(root, masks={"seg": "masks", "again": "masks"})
    assert dataset.specs["again"] == dataset.labels
    assert np.array_equal(dataset[0]["again"].array, dataset[0]["seg"].array)


def test_all_options_work_in_a_config(root: Path) -> None:
    spec = {
        "type": "FolderDataset",
        "data_root": str(root),
        "images": "images",
        "classes": ["x", "y", "z"],
        "weights": "weights",
        "masks": {"seg": "masks", "parts": {"path": "parts", "classes": ["h", "t"], "values": {10: 0, 20: 1}}},
        "metainfo": {"classes": {"xy": ["x", "y"], "z": "z"}},
    }
    sample = build("datasets", spec)[1]
    assert {*sample} == {"seg", "parts", "weight"}
    assert (sample["seg"].array == 1).all()


def test_one_label_folder_is_the_main_one(root: Path) -> None:
    with pytest.raises(UsageError, match="must be called 'seg'; there are parts"):
        folder(root, masks={"parts": "parts"})


def test_weights_are_a_share_of_255(root: Path) -> None:
    sample = folder(root, weights="weights")[1]
    assert isinstance(sample["weight"], WeightMap)
    assert sample["weight"].array.dtype == np.float32
    np.testing.assert_allclose(sample["weight"].array, 0.2, rtol=1e-6)


def test_weights_of_a_label_folder_are_named_after_it(root: Path) -> None:
    parts = {"path": "parts", "classes": ["h", "t"], "values": {10: 0, 20: 1}, "weights": "weights"}
    sample = folder(root, masks={"seg": {"path": "masks", "weights": "weights"}, "parts": parts})[1]
    assert {*sample} == {"seg", "parts", "weight", "parts_weight"}
    named = folder(root, weights={"lane_weight": "weights"}, weight_scale=0.5)[1]
    assert (named["lane_weight"].array == 25.5).all()


def test_weights_in_arrays_are_as_they_are(root: Path) -> None:
    for name in "ab":
        np.save(root / f"weights/{name}.npy", np.full(SIZE, 10.5))
    dataset = folder(root, weights="weights", weight_suffix=".npy")
    assert (dataset[0]["weight"].array == 10.5).all()
    np.save(root / "weights/a.npy", np.full(SIZE, np.nan))
    np.save(root / "weights/b.npy", np.ones((2, 3)))
    with pytest.raises(DataError, match="finite"):
        dataset[0]
    with pytest.raises(DataError, match="2 x 3 for an image of 6 x 8"):
        dataset[1]
    (root / "weights/a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"a\.npy"):
        dataset[0]


def test_depth_is_in_metres(root: Path) -> None:
    sample = folder(root, masks=None, depth="far")[0]
    assert isinstance(sample["depth"], DepthMap)
    assert {*sample} == {"depth"}
    np.testing.assert_allclose(sample["depth"].array, 2.5)


def test_a_field_without_a_file_is_named(root: Path) -> None:
    (root / "weights/b.png").unlink()
    with pytest.raises(DataError, match=r"without a file NAME\.png for 'weight' .*: b"):
        folder(root, weights="weights")


def test_a_split_without_labels(root: Path) -> None:
    (root / "test.txt").write_text("b\n")
    dataset = folder(root, masks=None, split="test.txt")
    assert [s.meta["name"] for s in dataset] == ["b"]  # type: ignore[attr-defined]
    assert "seg" not in dataset[0]


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize("separator", [" ", "\t", ", "])
def test_a_list_of_images_and_masks(root: Path, separator: str) -> None:
    (root / "pairs.txt").write_text(f"images/a.jpg{separator}masks/b.png\n\n/images/b.jpg{separator}/masks/a.png\n")
    dataset = folder(root, split="pairs.txt")
    assert [sample.meta["name"] for sample in dataset] == ["images/a", "images/b"]  # type: ignore[attr-defined]
    assert [sample["seg"].array[0, 0] for sample in dataset] == [2, 1]  # type: ignore[attr-defined]
    assert "seg" not in folder(root, split="pairs.txt", masks=None)[0]


def test_a_list_of_pairs_inside_the_folders(root: Path) -> None:
    (root / "pairs.txt").write_text("a.jpg b.png\n")
    assert (folder(root, split="pairs.txt")[0]["seg"].array == 2).all()


def test_a_list_of_pairs_with_missing_files(root: Path) -> None:
    (root / "pairs.txt").write_text("images/a.jpg masks/c.png\n")
    with pytest.raises(DataError, match=r"1 of 1 names listed in .* not found .*: masks/c\.png"):
        folder(root, split="pairs.txt")
    (root / "pairs.txt").write_text("images/a.jpg masks/a.png\nb\n")
    with pytest.raises(DataError, match="line 2 is not a pair"):
        folder(root, split="pairs.txt")


def test_names_with_spaces_are_not_pairs(tmp_path: Path) -> None:
    image.write(tmp_path / "images/my cat.jpg", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "list.txt").write_text("my cat.jpg\n")
    assert len(FolderDataset("images", data_root=tmp_path, split="list.txt")) == 1


def test_published_sets_take_lists_of_pairs(tmp_path: Path) -> None:
    image.write(tmp_path / "leftImg8bit/train/x/a_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
    image.write_mask(tmp_path / "gtFine/train/x/a_gtFine_labelTrainIds.png", np.full(SIZE, 3))
    line = "leftImg8bit/train/x/a_leftImg8bit.png\tgtFine/train/x/a_gtFine_labelTrainIds.png"
    (tmp_path / "train.lst").write_text(line)
    assert (CityscapesDataset(tmp_path, ann_file="train.lst")[0]["seg"].array == 3).all()


@pytest.mark.parametrize(("indices", "names"), [(1, "a"), (-1, "b"), ([1, 0, 1], "bab"), ([-1], "b"), (9, "ab")])
def test_some_of_the_samples(root: Path, indices: Any, names: str) -> None:
    dataset = folder(root, indices=indices, weights="weights")
    assert "".join(sample.meta["name"] for sample in dataset) == names  # type: ignore[attr-defined]


def test_samples_that_do_not_exist(root: Path) -> None:
    with pytest.raises(UsageError, match="sample 2, but there are 2"):
        folder(root, indices=[0, 2])


def test_published_sets_take_indices(tmp_path: Path) -> None:
    for name in "ab":
        image.write(tmp_path / f"leftImg8bit/train/{name}_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
    prefix: Any = {"img_path": "leftImg8bit/train"}
    assert len(CityscapesDataset(tmp_path, prefix, indices=1)) == 1


# ---------------------------------------------------------------- colours


def test_colours_of_merged_classes(root: Path) -> None:
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    image.write(root / "masks/a.png", np.array([[red, green, blue, blue] * 2] * 6, np.uint8))
    metainfo = {"classes": {"warm": ["x"], "cold": ["z"]}}
    dataset = folder(root, palette=[red, green, blue], metainfo=metainfo)
    assert dataset[0]["seg"].array[0].tolist() == [0, 255, 1, 1] * 2
    assert dataset.palette == (red, blue)


def test_unknown_colours_are_listed(root: Path) -> None:
    image.write(root / "masks/a.png", np.full((*SIZE, 3), (1, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"\(1, 2, 3\) are not in the palette"):
        folder(root, palette=[(0, 0, 0), (9, 9, 9), (8, 8, 8)])[0]


def test_colours_are_looked_up_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    palette = rng.permutation(256)[:60].reshape(20, 3)
    ids = rng.integers(0, 20, (64, 128))
    dataset = FolderDataset.conformance(tmp_path)[0] | {"classes": list("abcdefghijklmnopqrst")}
    reader = FolderDataset(**dataset, palette=[tuple(color) for color in palette.tolist()])._reader
    raw = palette[ids].astype(np.uint8)
    assert np.array_equal(reader._from_colors(raw), ids)  # also makes the table
    for slow in ("unique", "isin", "full", "zeros"):
        monkeypatch.setattr(np, slow, None)
    assert np.array_equal(reader._from_colors(raw[::-1]), ids[::-1])


SHARED = Path(__file__).parents[4] / "shared/data"


@pytest.mark.skipif(not (SHARED / "penn_fudan").is_dir(), reason="the Penn-Fudan files are not here")
def test_real_instance_masks_become_one_class() -> None:
    values = {0: 0, **dict.fromkeys(range(1, 20), 1)}
    dataset = FolderDataset("images", "instance_masks", values=values, data_root=SHARED / "penn_fudan")
    assert len(dataset) == 170
    assert all(set(np.unique(dataset[index]["seg"].array)) == {0, 1} for index in range(0, 170, 17))
