"""Folders of images and masks: valid layouts without code, and every invalid layout."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import Dataset
from segplug_datasets import image
from segplug_datasets.ade20k import ADE20KDataset
from segplug_datasets.camvid import CamVid
from segplug_datasets.cityscapes import CityscapesDataset
from segplug_datasets.files import FolderDataset

SHARED = Path(__file__).parents[4] / "shared/data"
CLASSES = ("wall", "door", "window")


def put(root: Path, name: str, labels: Any = None, size: tuple[int, int] = (6, 8), suffix: str = ".jpg") -> None:
    """Write an image and, unless ``labels`` is None, its mask."""
    image.write(root / f"images/{name}{suffix}", np.full((*size, 3), 80, np.uint8))
    if labels is not None:
        image.write_mask(root / f"masks/{name}.png", np.broadcast_to(np.array(labels), size).copy())


def folder(root: Path, **arguments: Any) -> FolderDataset:
    return FolderDataset("images", "masks", **{"classes": CLASSES, "data_root": root, **arguments})


# ---------------------------------------------------------------- what works


def test_a_folder_of_images_and_masks(tmp_path: Path) -> None:
    for name in ("b", "a", "deeper/c"):
        put(tmp_path, name, 2)
    dataset = folder(tmp_path)
    assert isinstance(dataset, Dataset)
    assert [dataset[i].meta["name"] for i in range(len(dataset))] == ["a", "b", "deeper/c"]
    assert dataset[0].meta["path"] == str(tmp_path / "images/a.jpg")
    assert (dataset[0]["seg"].array == 2).all()
    assert dataset[0].image.shape == (6, 8, 3)
    assert dataset.classes == CLASSES
    assert len(dataset.palette) == 3


def test_images_alone_have_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "a")
    dataset = FolderDataset(tmp_path / "images", classes=CLASSES)
    assert "seg" not in dataset[0]


def test_an_index_outside_ends_a_loop(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    with pytest.raises(IndexError):
        folder(tmp_path)[1]
    assert len(list(folder(tmp_path))) == 1  # type: ignore[call-overload]


def test_a_data_set_survives_pickling(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    again = pickle.loads(pickle.dumps(folder(tmp_path)))
    assert (again[0]["seg"].array == 1).all()


def test_a_list_of_names_selects(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, 0)
    (tmp_path / "list.txt").write_text("c\n\n a.jpg \nb.png\n")
    assert [sample.meta["name"] for sample in folder(tmp_path, split="list.txt")] == ["c", "a", "b"]  # type: ignore


def test_values_map_black_and_white_to_classes(tmp_path: Path) -> None:
    put(tmp_path, "a", [0, 255, 0, 255, 0, 255, 0, 255])
    dataset = folder(tmp_path, values={0: 0, 255: 1}, ignore=())
    assert dataset[0]["seg"].array[0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_values_below_the_offset_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, "a", [0, 1, 2, 3, 0, 1, 2, 255])
    assert folder(tmp_path, offset=1)[0]["seg"].array[0].tolist() == [255, 0, 1, 2, 255, 0, 1, 255]


def test_colours_are_looked_up_in_the_palette(tmp_path: Path) -> None:
    put(tmp_path, "a")
    red, green, black = (255, 0, 0), (0, 255, 0), (0, 0, 0)
    colors = np.array([[red, green, black, red, red, red, red, green]] * 6, np.uint8)
    image.write(tmp_path / "masks/a.png", colors)
    dataset = folder(tmp_path, classes=("r", "g"), palette=[red, green], ignore_colors=[black])
    assert dataset[0]["seg"].array[0].tolist() == [0, 1, 255, 0, 0, 0, 0, 1]


def test_grey_masks_saved_in_colour_are_grey(tmp_path: Path) -> None:
    put(tmp_path, "a")
    image.write(tmp_path / "masks/a.png", np.full((6, 8, 3), 2, np.uint8))
    assert (folder(tmp_path)[0]["seg"].array == 2).all()


def test_suffixes_distinguish_images_from_masks_in_one_folder(tmp_path: Path) -> None:
    image.write(tmp_path / "a_photo.png", np.zeros((6, 8, 3), np.uint8))
    image.write_mask(tmp_path / "a_mask.png", np.ones((6, 8), np.uint8))
    dataset = FolderDataset(tmp_path, tmp_path, classes=CLASSES, image_suffix="_photo.png", mask_suffix="_mask.png")
    assert [sample.meta["name"] for sample in dataset] == ["a"]  # type: ignore[attr-defined]


def test_relative_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "deeper/a", 0)
    monkeypatch.chdir(tmp_path / "images")
    for here in ("", ".", "./", "../images", tmp_path / "images"):
        assert FolderDataset(here, classes=CLASSES)[0].meta["name"] == "deeper/a"


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    (tmp_path / "images/._a.jpg").write_text("what another system leaves behind")
    assert len(folder(tmp_path)) == 1


# ---------------------------------------------------------------- what is wrong


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images: no such folder"):
        folder(tmp_path)
    put(tmp_path, "a")
    with pytest.raises(DataError, match=r"masks: no such folder"):
        folder(tmp_path)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(DataError, match="not a folder"):
        folder(tmp_path)


def test_the_error_of_an_empty_folder_lists_suffixes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"no file here ends in .*\.jpg"):
        folder(tmp_path)
    (tmp_path / "images/a.gif").touch()
    with pytest.raises(DataError, match=r"it contains \.gif files"):
        folder(tmp_path)


def test_images_without_masks_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    for index in range(7):
        put(tmp_path, f"extra{index}")
    with pytest.raises(DataError, match=r"7 of 8 names without a mask .*extra0.* and 2 more"):
        folder(tmp_path)


def test_masks_without_images_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    image.write_mask(tmp_path / "masks/lonely.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(DataError, match=r"no image .*: lonely"):
        folder(tmp_path)


def test_names_of_a_list_that_do_not_exist_are_listed(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    (tmp_path / "list.txt").write_text("a\nz\n")
    with pytest.raises(DataError, match=r"1 of 2 names listed in .*list\.txt .*: z"):
        folder(tmp_path, split="list.txt")


@pytest.mark.parametrize(("content", "problem"), [(None, "No such file"), ("\n", "empty")])
def test_an_unusable_list_is_named(tmp_path: Path, content: str | None, problem: str) -> None:
    put(tmp_path, "a", 0)
    if content is not None:
        (tmp_path / "list.txt").write_text(content)
    with pytest.raises(DataError, match=rf"list\.txt: .*{problem}"):
        folder(tmp_path, split="list.txt")


def test_two_images_with_one_name_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    put(tmp_path, "a", 0, suffix=".png")
    with pytest.raises(DataError, match=r"images/a\.jpg.*have the same name"):
        folder(tmp_path)


def test_a_mask_of_another_size_names_both_files(tmp_path: Path) -> None:
    put(tmp_path, "a")
    image.write_mask(tmp_path / "masks/a.png", np.zeros((5, 8), np.uint8))
    with pytest.raises(DataError, match=r"masks/a\.png: .*5 x 8 .*6 x 8 .*images/a\.jpg") as caught:
        folder(tmp_path)[0]
    assert caught.value.path == str(tmp_path / "masks/a.png")


def test_values_outside_the_classes_name_both_files(tmp_path: Path) -> None:
    put(tmp_path, "a", [0, 7, 9, 0, 0, 0, 0, 0])
    with pytest.raises(DataError, match=r"(?s)masks/a\.png: label values 7, 9 .*images/a\.jpg") as caught:
        folder(tmp_path)[0]
    assert caught.value.path == str(tmp_path / "masks/a.png")


def test_colours_without_a_palette_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "a")
    image.write(tmp_path / "masks/a.png", np.full((6, 8, 3), (1, 2, 3), np.uint8))
    with pytest.raises(DataError, match="palette"):
        folder(tmp_path)[0]
    with pytest.raises(DataError, match=r"\(1, 2, 3\) are not in the palette"):
        folder(tmp_path, palette=[(9, 9, 9), (8, 8, 8), (7, 7, 7)])[0]


@pytest.mark.parametrize("spoil", ["empty", "text", "cut"])
@pytest.mark.parametrize("which", ["images/a.jpg", "masks/a.png"])
def test_unusable_files_are_named(tmp_path: Path, which: str, spoil: str) -> None:
    put(tmp_path, "a", 0)
    data = (tmp_path / which).read_bytes()
    (tmp_path / which).write_bytes({"empty": b"", "text": b"hello", "cut": data[: len(data) - 14]}[spoil])
    with pytest.raises(DataError) as caught:
        folder(tmp_path)[0]
    assert caught.value.path == str(tmp_path / which)


def test_a_file_that_disappears_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a", 0)
    dataset = folder(tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    with pytest.raises(DataError, match="no such file"):
        dataset[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": 1, "values": {1: 0}},
        {"values": {1: 3}},
        {"palette": [(0, 0, 0)]},
        {"palette": [(0, 0, 0)] * 3},
        {"classes": ()},
    ],
)
def test_label_arguments_that_contradict_each_other(tmp_path: Path, wrong: dict[str, Any]) -> None:
    put(tmp_path, "a", 0)
    with pytest.raises(UsageError):
        folder(tmp_path, **wrong)


# ---------------------------------------------------------------- published data sets


def test_cityscapes_finds_its_files(tmp_path: Path) -> None:
    place = "aachen/aachen_000000_000019"
    image.write(tmp_path / f"leftImg8bit/val/{place}_leftImg8bit.png", np.zeros((6, 8, 3), np.uint8))
    for suffix, value in (("labelTrainIds", 18), ("color", 7)):
        image.write_mask(tmp_path / f"gtFine/val/{place}_gtFine_{suffix}.png", np.full((6, 8), value))
    prefix = {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"}
    dataset = CityscapesDataset(tmp_path, prefix)  # type: ignore[arg-type]
    assert dataset[0].meta["name"] == place
    assert (dataset[0]["seg"].array == 18).all()
    assert dataset.classes[18] == "bicycle"
    assert len(dataset.palette) == 19


def test_a_set_without_annotations(tmp_path: Path) -> None:
    image.write(tmp_path / "images/test/a.jpg", np.zeros((6, 8, 3), np.uint8))
    assert "seg" not in ADE20KDataset(tmp_path, {"img_path": "images/test"})[0]


def test_ade20k_starts_at_one(tmp_path: Path) -> None:
    image.write(tmp_path / "images/training/a.jpg", np.zeros((1, 4, 3), np.uint8))
    image.write_mask(tmp_path / "annotations/training/a.png", np.array([[0, 1, 150, 255]]))
    dataset = ADE20KDataset(tmp_path)
    assert dataset[0]["seg"].array.tolist() == [[255, 0, 149, 255]]
    assert (dataset.classes[0], dataset.classes[149]) == ("wall", "flag")
    assert dataset.palette[149] == (92, 0, 255)


def test_ade20k_list_of_names(tmp_path: Path) -> None:
    for name in "ab":
        image.write(tmp_path / f"images/training/{name}.jpg", np.zeros((1, 4, 3), np.uint8))
        image.write_mask(tmp_path / f"annotations/training/{name}.png", np.ones((1, 4), np.uint8))
    (tmp_path / "few.txt").write_text("b\n")
    assert len(ADE20KDataset(tmp_path, ann_file="few.txt")) == 1


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="the CamVid files are not here")
@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101), ("test", 233)])
def test_real_camvid(split: Any, count: int) -> None:
    dataset = CamVid(SHARED / "camvid", split)
    assert len(dataset) == count
    sample = dataset[count - 1]
    assert sample.size == (360, 480)
    assert set(np.unique(sample["seg"].array)) <= {*range(11), 255}


@pytest.mark.skipif(not (SHARED / "cityscapes_sample").is_dir(), reason="the Cityscapes sample is not here")
def test_real_cityscapes_images() -> None:
    dataset = CityscapesDataset(SHARED / "cityscapes_sample", {"img_path": ""})
    assert dataset[0].size == (1024, 2048)


@pytest.mark.skipif(not (SHARED / "drive").is_dir(), reason="the DRIVE files are not here")
def test_real_files_in_other_formats() -> None:
    paths = [p for p in (SHARED / "drive").rglob("*") if p.suffix in (".tif", ".png", ".jpg", ".gif")]
    assert all(image.read(path).ndim == 3 for path in paths[:5] if path.suffix != ".gif")


def test_opencv_is_not_needed_to_list_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a", 0)
    monkeypatch.setattr(cv2, "imdecode", None)
    assert len(folder(tmp_path)) == 1
