"""Folders, lists and file names as written by Windows, macOS, network drives and annotation tools."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.annotations.coco import CocoInstanceDataset, write_coco_example
from segplug_datasets.annotations.cvat import CvatDataset
from segplug_datasets.annotations.yolo import YoloSegDataset
from segplug_datasets.files import FolderDataset
from segplug_datasets.listing import NamedFiles, find_files, find_named, read_list, read_text, resolve, walk


def put(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        image.write(root / name, np.full((4, 6, 3), number, np.uint8))
    return root


def pairs(root: Path, *names: str, suffix: str = ".png") -> None:
    put(root / "images", *(name + suffix for name in names))
    for name in names:
        image.write_mask(root / "masks" / f"{name}.png", np.zeros((4, 6), np.uint8))


def named(dataset: FolderDataset) -> list[str]:
    return [name for name, _, _ in dataset.files]


def split(root: Path, content: str | bytes) -> FolderDataset:
    (root / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return FolderDataset("images", "masks", split="list.txt", data_root=root)


# ---------------------------------------------------------------- folders


def test_hidden_files_and_system_folders_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "deeper/b.png", ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/c.png", "__MACOSX/d.png")
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")
    assert find_files(tmp_path, (".png",)) == {"a": str(tmp_path / "a.png"), "deeper/b": str(tmp_path / "deeper/b.png")}


def test_links_are_followed_but_not_those_that_lead_back(tmp_path: Path) -> None:
    put(tmp_path / "there", "a.png")
    os.symlink(tmp_path / "there", tmp_path / "link")
    os.symlink(tmp_path / "there", tmp_path / "there/loop")
    os.symlink("itself.png", tmp_path / "there/itself.png")
    found = [os.path.relpath(path, tmp_path) for path in walk(tmp_path)]
    assert found == ["link/a.png", "link/itself.png", "there/a.png", "there/itself.png"]


def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "secret/b.png")
    scandir: Callable[[str], object] = os.scandir

    def refusing(folder: str) -> object:
        if str(folder).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match="secret: the folder cannot be read: Permission denied"):
        find_files(tmp_path, (".png",))


def test_composed_and_decomposed_names_are_one(tmp_path: Path) -> None:
    name = "straße café 1"
    put(tmp_path / "images", unicodedata.normalize("NFD", name) + ".png")
    image.write_mask(tmp_path / "masks" / (unicodedata.normalize("NFC", name) + ".png"), np.ones((4, 6), np.uint8))
    dataset = FolderDataset("images", "masks", data_root=tmp_path)
    assert named(dataset) == [unicodedata.normalize("NFC", name)]
    assert dataset[0]["seg"].array.all()
    listed = split(tmp_path, unicodedata.normalize("NFD", name))
    assert named(listed) == named(dataset)


def test_home_and_backslashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pairs(tmp_path / "data", "a")
    assert resolve("~/data", "images") == tmp_path / "data/images"
    assert resolve(tmp_path, "~/data") == tmp_path / "data"
    assert named(FolderDataset("data\\images", "data\\masks", data_root="~")) == ["a"]


@pytest.mark.parametrize("columns", ["images/{0}.jpg", "{root}/images/{0}.jpg", "./images\\{0}.jpg"])
def test_a_list_of_files_stands_for_their_folder(tmp_path: Path, columns: str) -> None:
    pairs(tmp_path, "a", "deeper/b", "c", suffix=".jpg")
    lines = [columns.format(name, root=tmp_path) for name in ("a", "deeper/b", "c")]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    assert named(FolderDataset("train.txt", "masks", data_root=tmp_path)) == ["a", "c", "deeper/b"]
    (tmp_path / "train.txt").write_text("images/gone.jpg\n")
    with pytest.raises(DataError, match=r"1 of 1 names listed in .*train.txt but not found in .*: images/gone.jpg"):
        FolderDataset("train.txt", "masks", data_root=tmp_path)


# ---------------------------------------------------------------- lists


TEXTS = {
    "CRLF": b"a\r\nb\r\n",
    "UTF-8 with a mark": b"\xef\xbb\xbfa\r\nb\r\n",
    "UTF-16": "a\r\nb\r\n".encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + "a\nb".encode("utf-16-be"),
    "blanks and empty lines": b"\n  a \t\n\n b\n\n",
    "column names": b"image_id\na\nb\n",
    "remarks": b"# the training set\na\n# and\nb\n",
    "suffixes": b"a.png\nb.PNG\n",
    "the suffix of the masks": b"a.png\nb.png\n",
    "quotes": b'"a.png"\n"b.png"\n',
    "the folder": b"images/a.png\nimages/b\n",
    "another machine": b"C:\\Users\\me\\images\\a.png\n/home/me/images/b.png\n",
    "pairs": b"a.png a.png\nb.png b.png\n",
    "pairs under the root": b"/images/a.png /masks/a.png\n/images/b.png /masks/b.png\n",
    "pairs with a header": b"image,mask\nimages/a.png,masks/a.png\nimages/b.PNG,masks/b.PNG\n",
    "pairs that a table program wrote": b",image,mask,split\n0,a.png,a.png,train\n1,images/b.png,masks/b.png,val\n",
    "a table": b"image_id;width;height\na.png;6;4\nb.png;6;4\n",
    "pairs of another system": b"images\\a.png\tmasks\\a.png\r\nimages\\b.png\tmasks\\b.png\r\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_lists_of_all_systems(tmp_path: Path, text: bytes) -> None:
    pairs(tmp_path, "a", "b", "c")
    dataset = split(tmp_path, text)
    assert [Path(file[1]).name for file in dataset.files] == ["a.png", "b.png"]
    assert [file[2] for file in dataset.files] == [str(tmp_path / f"masks/{name}.png") for name in "ab"]


def test_files_in_upper_case(tmp_path: Path) -> None:
    pairs(tmp_path, "IMG_1", suffix=".JPG")
    os.rename(tmp_path / "masks/IMG_1.png", tmp_path / "masks/IMG_1.PNG")
    for text in ("IMG_1", "IMG_1.JPG", "IMG_1.jpg", "IMG_1.JPG IMG_1.PNG", "img/IMG_1.jpg masks/IMG_1.png"):
        os.symlink(tmp_path / "images", tmp_path / "img", target_is_directory=True) if text[:4] == "img/" else None
        assert named(split(tmp_path, text))[0].endswith("IMG_1"), text


def test_a_sample_may_be_called_like_a_column_or_a_remark(tmp_path: Path) -> None:
    pairs(tmp_path, "image", "#1")
    assert named(split(tmp_path, "image\n#1\n")) == ["image", "#1"]


def test_a_name_may_contain_spaces(tmp_path: Path) -> None:
    pairs(tmp_path, "my photo 1", "b")
    assert named(split(tmp_path, "my photo 1\nb")) == ["my photo 1", "b"]
    assert named(split(tmp_path, "my photo 1.png,my photo 1.png\nb.png,b.png")) == ["my photo 1", "b"]


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    put(tmp_path / "images", "a.png")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"images/a.png: listed in .*list.txt as its own label file"):
        split(tmp_path, "a.png a.png")


def test_a_name_in_another_folder_is_another_file(tmp_path: Path) -> None:
    pairs(tmp_path, "a", "b")
    with pytest.raises(DataError, match=r"1 of 2 names listed in .* but not found in .*images: val/a"):
        split(tmp_path, "val/a.png\nb.png")


def test_lists_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    for content in (b"caf\xe9\n", b"\x89PNG\0\0"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(DataError, match="the list of names is not UTF-8 text: save it as UTF-8"):
            read_list(tmp_path / "list.txt")
    with pytest.raises(DataError, match="the file cannot be read: No such file"):
        read_text(tmp_path / "gone.txt")


# ---------------------------------------------------------------- names in annotation files


def test_names_are_found_as_other_systems_write_them(tmp_path: Path) -> None:
    put(tmp_path, "train/IMG_1.JPG", "val/b.png", "train/b.png")
    for name in (
        "train/IMG_1.JPG",
        "train\\IMG_1.jpg",
        "./train/IMG_1.JPG",
        f"{tmp_path}/train/IMG_1.JPG",
        "IMG_1.JPG",
    ):
        assert find_named(tmp_path, [name], "a.json") == [str(tmp_path / "train/IMG_1.JPG")], name
    assert find_named(tmp_path / "train", ["train/b.png"], "a.json") == [str(tmp_path / "train/b.png")]
    with pytest.raises(DataError, match=r"b.png may be .*train/b.png or .*val/b.png"):
        find_named(tmp_path, ["b.png"], "a.json")
    with pytest.raises(DataError, match=r"listed in a.json but not found in .*: test/b.png"):
        find_named(tmp_path, ["test/b.png"], "a.json")
    assert NamedFiles(tmp_path).find("b.png") is None


def test_coco_images_are_found_in_the_folder_of_their_subset(tmp_path: Path) -> None:
    write_coco_example(tmp_path)
    (tmp_path / "images").rename(tmp_path / "default")
    put(tmp_path / "images")
    (tmp_path / "images").mkdir()
    (tmp_path / "default").rename(tmp_path / "images/default")
    dataset = CocoInstanceDataset("a.json", "images", data_root=tmp_path)
    assert [dataset[i].meta["name"] for i in range(2)] == ["default/0", "default/1"]
    assert (dataset[0]["seg"].array == 1).any()


def test_annotations_in_utf16_are_reported(tmp_path: Path) -> None:
    write_coco_example(tmp_path)
    (tmp_path / "a.json").write_text((tmp_path / "a.json").read_text(), encoding="utf-16")
    with pytest.raises(DataError, match=r"a\.json: the annotations are UTF-16: save them as UTF-8"):
        CocoInstanceDataset("a.json", "images", tmp_path)


def test_coco_lists_of_images_as_other_systems_write_them(tmp_path: Path) -> None:
    write_coco_example(tmp_path)
    for text in ("id\r\n8\r\n", "images\\1.png", "1", "\ufeff1.png"):
        (tmp_path / "ids.txt").write_text(text, encoding="utf-8")
        assert CocoInstanceDataset("a.json", "images", tmp_path, "ids.txt")[0].meta["name"] == "1", text


CVAT = '<?xml version="1.0"?><annotations><meta><label><name>cat</name></label></meta>{}</annotations>'
OUTLINE = '<polygon label="cat" points="0,0;3,0;3,3" z_order="0"/>'


def cvat(root: Path, images: str) -> CvatDataset:
    (root / "a.xml").write_text(CVAT.format(images), encoding="utf-8")
    return CvatDataset("a.xml", "images", root)


def test_cvat_projects_have_folders_for_subsets(tmp_path: Path) -> None:
    put(tmp_path / "images", "Train/a.png", "Val/a.png")
    dataset = cvat(tmp_path, f'<image name="a.png" subset="Train">{OUTLINE}</image><image name="a.png" subset="Val"/>')
    assert [dataset[i].meta["name"] for i in range(2)] == ["Train/a", "Val/a"]
    assert [(dataset[i]["seg"].array == 1).any() for i in range(2)] == [True, False]


def test_cvat_of_a_share_of_windows_and_of_a_video(tmp_path: Path) -> None:
    put(tmp_path / "images", "sub/a.png")
    assert (cvat(tmp_path, f'<image name="sub\\a.png">{OUTLINE}</image>')[0]["seg"].array == 1).any()
    with pytest.raises(DataError, match=r"an export of a video: choose the format CVAT for images 1.1"):
        cvat(tmp_path, '<track id="0" label="cat"><polygon frame="0" points="1,1;9,1;9,9"/></track>')


def test_yolo_files_of_windows(tmp_path: Path) -> None:
    put(tmp_path / "images/train", "a.JPG")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xef\xbb\xbf0 0.1 0.1 0.9 0.1 0.9 0.9\r\n")
    (tmp_path / "data.yaml").write_bytes(b"\xef\xbb\xbftrain: images\\train\r\nnames: [cat]\r\n")
    assert (YoloSegDataset(data_root=tmp_path)[0]["seg"].array == 1).any()
    (tmp_path / "train.txt").write_text("C:\\data\\images\\train\\a.jpg\r\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    assert (YoloSegDataset(data_root=tmp_path)[0]["seg"].array == 1).any()


@pytest.mark.parametrize("train", ["../train/images", "/content/set/train/images", "C:\\\\set\\\\train\\\\images"])
def test_yolo_folders_of_another_machine(tmp_path: Path, train: str) -> None:
    put(tmp_path / "train/images", "a.png")
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "data.yaml").write_text(f"train: {train}\nnames: [cat]\n".replace("\\\\", "\\"))
    assert (YoloSegDataset(data_root=tmp_path)[0]["seg"].array == 1).any()


def test_cvat_in_another_encoding_is_reported(tmp_path: Path) -> None:
    put(tmp_path / "images", "a.png")
    for encoding in ("utf-16", "gbk", "iso-8859-1"):
        text = CVAT.replace('"1.0"', f'"1.0" encoding="{encoding}"').format('<image name="a.png"/>')
        (tmp_path / "a.xml").write_text(text, encoding=encoding)
        with pytest.raises(DataError, match=rf"a.xml: the annotations are {encoding}: save them as UTF-8"):
            CvatDataset("a.xml", "images", tmp_path)


def test_class_lists_with_a_mark(tmp_path: Path) -> None:
    from segplug_datasets.doctor.sources import read_list as read_classes

    (tmp_path / "classes.txt").write_text("\ufeffroad\ncar\n", encoding="utf-8")
    assert read_classes(tmp_path / "classes.txt") == [(None, ("road",)), (None, ("car",))]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["road"]}), encoding="utf-16")
    assert read_classes(tmp_path / "classes.json") == [(None, ("road",))]


def test_a_list_of_names_is_not_a_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected the path of a folder, or of a text file that lists files"):
        FolderDataset(["a.png", "b.png"], "masks", data_root=tmp_path)  # type: ignore[arg-type]
