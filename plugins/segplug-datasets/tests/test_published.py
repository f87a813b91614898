"""Published data sets, each on a small tree in its published layout, valid and damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.catalog import Catalog
from segkernel.errors import DataError, UsageError
from segkernel.sample import DepthMap
from segplug_datasets import image
from segplug_datasets.change import BaseCDDataset, LEVIRCDDataset, SecondImage
from segplug_datasets.coco_stuff import COCOStuffDataset
from segplug_datasets.concat import ConcatDataset
from segplug_datasets.dsdl import DSDLSegDataset
from segplug_datasets.mapillary import MapillaryDataset_v1
from segplug_datasets.nyu import NYUDataset
from segplug_datasets.pascal import PascalVOCDataset
from segplug_datasets.retina import DRIVEDataset

# Name; classes; image and label file of the training set; first and last class with their colours; whether 0 counts.
SETS: dict[str, tuple[int, str, str, tuple[str, str], tuple[str, str], bool]] = {
    "ADE20KDataset": (
        *(150, "images/training/a.jpg", "annotations/training/a.png"),
        *(("wall", "flag"), ("787878", "5c00ff"), False),
    ),
    "BDD100KDataset": (
        *(19, "images/10k/train/0004a4c0-d4dff0ad.jpg", "labels/sem_seg/masks/train/0004a4c0-d4dff0ad.png"),
        *(("road", "bicycle"), ("804080", "770b20"), True),
    ),
    "LIPDataset": (
        *(20, "train_images/1000_1234574.jpg", "train_segmentations/1000_1234574.png"),
        *(("Background", "Right-shoe"), ("000000", "ffaa00"), True),
    ),
    "REFUGEDataset": (
        *(3, "images/training/g0001.png", "annotations/training/g0001.png"),
        *(("background", "Optic Disc"), ("787878", "383b78"), True),
    ),
    "SynapseDataset": (
        *(9, "img_dir/train/case0005_slice000.jpg", "ann_dir/train/case0005_slice000.png"),
        *(("background", "stomach"), ("000000", "f0f0f0"), True),
    ),
    "COCOStuffDataset": (
        *(171, "images/train2017/a.jpg", "annotations/train2017/a_labelTrainIds.png"),
        *(("person", "wood"), ("00c040", "404000"), True),
    ),
    "ChaseDB1Dataset": (
        *(2, "images/training/Image_01L.png", "annotations/training/Image_01L_1stHO.png"),
        *(("background", "vessel"), ("787878", "06e6e6"), True),
    ),
    "DRIVEDataset": (
        *(2, "images/training/21_training.png", "annotations/training/21_training_manual1.png"),
        *(("background", "vessel"), ("787878", "06e6e6"), True),
    ),
    "HRFDataset": (
        *(2, "images/training/01_dr.png", "annotations/training/01_dr.png"),
        *(("background", "vessel"), ("787878", "06e6e6"), True),
    ),
    "STAREDataset": (
        *(2, "images/training/im0001.png", "annotations/training/im0001.ah.png"),
        *(("background", "vessel"), ("787878", "06e6e6"), True),
    ),
    "CityscapesDataset": (
        *(19, "leftImg8bit/train/ulm/u_leftImg8bit.png", "gtFine/train/ulm/u_gtFine_labelTrainIds.png"),
        *(("road", "bicycle"), ("804080", "770b20"), True),
    ),
    "DarkZurichDataset": (
        *(19, "rgb_anon/val/night/GOPR0356/f_rgb_anon.png", "gt/val/night/GOPR0356/f_gt_labelTrainIds.png"),
        *(("road", "bicycle"), ("804080", "770b20"), True),
    ),
    "NightDrivingDataset": (
        19,
        "leftImg8bit/test/night/f_leftImg8bit.png",
        "gtCoarse_daytime_trainvaltest/test/night/f_gtCoarse_labelTrainIds.png",
        *(("road", "bicycle"), ("804080", "770b20"), True),
    ),
    "ISPRSDataset": (
        *(6, "img_dir/train/area1_0_0_512_512.png", "ann_dir/train/area1_0_0_512_512.png"),
        *(("impervious_surface", "clutter"), ("ffffff", "ff0000"), False),
    ),
    "PotsdamDataset": (
        *(6, "img_dir/train/2_10_0_0_512_512.png", "ann_dir/train/2_10_0_0_512_512.png"),
        *(("impervious_surface", "clutter"), ("ffffff", "ff0000"), False),
    ),
    "LoveDADataset": (
        *(7, "img_dir/train/1366.png", "ann_dir/train/1366.png"),
        *(("background", "agricultural"), ("ffffff", "ffc380"), False),
    ),
    "iSAIDDataset": (
        16,
        "img_dir/train/P0000_0_896_0_896.png",
        "ann_dir/train/P0000_0_896_0_896_instance_color_RGB.png",
        *(("background", "Harbor"), ("000000", "00649b"), True),
    ),
    "MapillaryDataset_v1": (
        *(66, "training/images/a.jpg", "training/v1.2/labels/a.png"),
        *(("Bird", "Unlabeled"), ("a52a2a", "000000"), True),
    ),
    "MapillaryDataset_v2": (
        *(124, "training/images/a.jpg", "training/v2.0/labels/a.png"),
        *(("Bird", "Unlabeled"), ("a52a2a", "000000"), True),
    ),
    "PascalVOCDataset": (
        *(21, "JPEGImages/2007_000032.jpg", "SegmentationClass/2007_000032.png"),
        *(("background", "tvmonitor"), ("000000", "004080"), True),
    ),
    "PascalContextDataset": (
        *(60, "JPEGImages/2008_000002.jpg", "SegmentationClassContext/2008_000002.png"),
        *(("background", "wood"), ("787878", "1f00ff"), True),
    ),
    "PascalContextDataset59": (
        *(59, "JPEGImages/2008_000002.jpg", "SegmentationClassContext/2008_000002.png"),
        *(("aeroplane", "wood"), ("b47878", "1f00ff"), False),
    ),
}


# Of names and colours as MMSegmentation 1.2.2 has them, but for two blanks in its names ("bed ", " Optic Cup").
DIGESTS = {
    "ADE20KDataset": "266cb268ba81",
    "BDD100KDataset": "ce03bbee03ba",
    "COCOStuffDataset": "b5de6c49a20a",
    "ChaseDB1Dataset": "136dd1329b0b",
    "CityscapesDataset": "ce03bbee03ba",
    "DRIVEDataset": "136dd1329b0b",
    "DarkZurichDataset": "ce03bbee03ba",
    "HRFDataset": "136dd1329b0b",
    "ISPRSDataset": "34bd2146326f",
    "LEVIRCDDataset": "ed6f659f1d67",
    "LIPDataset": "cc72d0f4c220",
    "LoveDADataset": "b4f19ea0d1d0",
    "MapillaryDataset_v1": "41a8470fe154",
    "MapillaryDataset_v2": "fb8bb1402b8b",
    "NightDrivingDataset": "ce03bbee03ba",
    "PascalContextDataset": "ff07934cda8a",
    "PascalContextDataset59": "2cdf13c73199",
    "PascalVOCDataset": "1cf9aadaf5f2",
    "PotsdamDataset": "34bd2146326f",
    "REFUGEDataset": "6bde16fbfcfd",
    "STAREDataset": "136dd1329b0b",
    "SynapseDataset": "9de0820f7df3",
    "iSAIDDataset": "8b43da873f8c",
}


def picture(path: Path, value: int = 80, size: tuple[int, int] = (6, 8)) -> None:
    image.write(path, np.full((*size, 3), value, np.uint8))


def mask(path: Path, row: list[int]) -> None:
    """Write a mask of 6 x 8 whose rows begin with ``row``, zeros behind."""
    image.write_mask(path, np.tile(np.array([*row, *[0] * (8 - len(row))]), (6, 1)))


def rows(dataset: Any, count: int, index: int = 0) -> list[int]:
    return dataset[index]["seg"].array[0, :count].tolist()


@pytest.mark.parametrize("name", SETS)
def test_the_published_layout(name: str, tmp_path: Path) -> None:
    count, photo, label, ends, colors, zero_counts = SETS[name]
    first = 0 if zero_counts else 1
    picture(tmp_path / photo)
    mask(tmp_path / label, [0, first, first + count - 1, 255])
    dataset = build("datasets", {"type": name, "data_root": str(tmp_path)})
    assert len(dataset) == 1
    assert len(dataset.classes) == len(set(dataset.classes)) == len(dataset.palette) == count
    assert (dataset.classes[0], dataset.classes[-1]) == ends
    assert (bytes(dataset.palette[0]).hex(), bytes(dataset.palette[-1]).hex()) == colors
    assert not [text for text in dataset.classes if "\n" in text or text != text.strip()]
    assert rows(dataset, 4) == [0 if zero_counts else 255, 0, count - 1, 255]
    mask(tmp_path / label, [first + count])
    with pytest.raises(DataError, match=f"outside the {count} classes"):
        dataset[0]


def test_names_and_colours_are_the_published_ones() -> None:
    assert {name: digest(Catalog.discover().load("datasets", name).spec) for name in DIGESTS} == DIGESTS


def digest(spec: Any) -> str:
    text = ",".join(spec.classes) + " " + "".join(bytes(color).hex() for color in spec.palette)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", SETS)
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    _, photo, label, *_ = SETS[name]
    spec = {"type": name, "data_root": str(tmp_path)}
    with pytest.raises(DataError, match="no such folder"):
        build("datasets", spec)
    (tmp_path / photo).parent.mkdir(parents=True)
    with pytest.raises(DataError, match="no file here ends in"):
        build("datasets", spec)
    picture(tmp_path / photo)
    mask(tmp_path / label, [1])
    picture((tmp_path / photo).with_name(f"x{Path(photo).name}"))
    with pytest.raises(DataError, match="1 of 2 names without a mask"):
        build("datasets", spec)


def test_zero_can_be_ignored(tmp_path: Path) -> None:
    picture(tmp_path / "images/train2014/a.jpg")
    mask(tmp_path / "annotations/train2014/a_labelTrainIds.png", [0, 1, 171, 255])
    prefix: Any = {"img_path": "images/train2014", "seg_map_path": "annotations/train2014"}
    assert rows(COCOStuffDataset(tmp_path, prefix, reduce_zero_label=True), 4) == [255, 0, 170, 255]


def test_some_of_the_classes(tmp_path: Path) -> None:
    picture(tmp_path / "training/images/a.jpg")
    mask(tmp_path / "training/v1.2/labels/a.png", [0, 2, 64, 65, 255])
    chosen = MapillaryDataset_v1(tmp_path, metainfo={"classes": ["Curb", "Bird"]})
    assert (chosen.classes, chosen.palette) == (("Curb", "Bird"), ((196, 196, 196), (165, 42, 42)))
    assert rows(chosen, 5) == [1, 0, 255, 255, 255]
    colored = MapillaryDataset_v1(tmp_path, metainfo={"classes": ["Bird"], "palette": [(1, 2, 3)]})
    assert colored.palette == ((1, 2, 3),)
    with pytest.raises(UsageError, match=r"no class is called 'Birds': did you mean 'Bird'\?"):
        MapillaryDataset_v1(tmp_path, metainfo={"classes": ["Birds"]})
    with pytest.raises(UsageError, match="twice: 'Bird'"):
        MapillaryDataset_v1(tmp_path, metainfo={"classes": ["Bird", "Bird"]})


def test_some_of_the_classes_where_zero_does_not_count(tmp_path: Path) -> None:
    picture(tmp_path / "images/training/a.png")
    mask(tmp_path / "annotations/training/a_manual1.png", [0, 1, 2, 255])
    chosen = DRIVEDataset(tmp_path, metainfo={"classes": ["vessel"]}, reduce_zero_label=True)
    assert rows(chosen, 4) == [255, 255, 0, 255]


def test_a_list_chooses_the_images_that_have_labels(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
    mask(tmp_path / "SegmentationClass/b.png", [20])
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/val.txt").write_text("b\n")
    dataset = PascalVOCDataset(tmp_path, ann_file="ImageSets/val.txt")
    assert [dataset[0].meta["name"], rows(dataset, 1), len(dataset)] == ["b", [20], 1]
    (tmp_path / "ImageSets/val.txt").write_text("b\nc\n")
    with pytest.raises(DataError, match="1 of 2 names without a mask"):
        PascalVOCDataset(tmp_path, ann_file="ImageSets/val.txt")


# ---------------------------------------------------------------- change


def pair(root: Path, name: str = "a") -> None:
    picture(root / f"train/A/{name}.png", 10)
    picture(root / f"train/B/{name}.png", 20)
    mask(root / f"train/label/{name}.png", [0, 1, 255])


def test_two_images_of_a_place(tmp_path: Path) -> None:
    pair(tmp_path)
    dataset = LEVIRCDDataset(tmp_path)
    sample = dataset[0]
    assert dataset.classes == ("background", "changed")
    assert rows(dataset, 3) == [0, 1, 1]
    assert isinstance(sample["img2"], SecondImage)
    assert (sample.image[0, 0, 0], sample["img2"].array[0, 0, 0]) == (10, 20)
    joined = build("transforms", {"type": "ConcatCDInput"})(sample, np.random.default_rng(0))
    assert joined.image.shape == (6, 8, 6)
    assert joined.image[0, 0].tolist() == [10, 10, 10, 20, 20, 20]
    assert list(joined) == ["seg"]


def test_second_images_must_match_the_first(tmp_path: Path) -> None:
    pair(tmp_path)
    pair(tmp_path, "b")
    (tmp_path / "train/B/b.png").rename(tmp_path / "train/B/c.png")
    with pytest.raises(DataError, match=r"1 of 2 names without a second image in .*B: b"):
        LEVIRCDDataset(tmp_path)
    picture(tmp_path / "train/B/b.png", size=(5, 8))
    with pytest.raises(DataError, match=r"of second images in .* without a first one: c"):
        LEVIRCDDataset(tmp_path)
    (tmp_path / "train/B/c.png").unlink()
    with pytest.raises(DataError, match=r"\(5, 8\) \(height, width\), but the first image is \(6, 8\)"):
        LEVIRCDDataset(tmp_path)[1]


def test_any_pairs_of_images(tmp_path: Path) -> None:
    for folder in ("A", "B"):
        picture(tmp_path / folder / "x.jpg")
    mask(tmp_path / "label/x.png", [0, 1, 2, 255])
    metainfo: Any = {"classes": ["same", "built", "gone"], "palette": [(0, 0, 0), (1, 1, 1), (2, 2, 2)]}
    dataset = BaseCDDataset(tmp_path, metainfo=metainfo)
    assert (dataset.classes, dataset.palette[2]) == (("same", "built", "gone"), (2, 2, 2))
    assert rows(dataset, 4) == [0, 1, 2, 255]
    assert BaseCDDataset(tmp_path).classes == ("unchanged", "changed")  # as before: the class itself did not change
    with pytest.raises(DataError, match="label values 2 are outside the 2 classes"):
        BaseCDDataset(tmp_path)[0]
    shifted = BaseCDDataset(tmp_path, metainfo=metainfo, reduce_zero_label=True)
    assert rows(shifted, 3) == [255, 0, 1]
    picture(tmp_path / "B2/x_after.png")
    prefix: Any = {"img_path": "A", "img_path2": "B2", "seg_map_path": "label"}
    assert "img2" in BaseCDDataset(tmp_path, prefix, img_suffix2="_after.png", metainfo=metainfo)[0]


def test_some_of_the_classes_of_a_published_set_of_pairs(tmp_path: Path) -> None:
    pair(tmp_path)
    chosen = LEVIRCDDataset(tmp_path, metainfo={"classes": ["changed"]})
    assert (chosen.classes, rows(chosen, 3)) == (("changed",), [255, 0, 0])
    pair(tmp_path, "b")
    assert [LEVIRCDDataset(tmp_path, indices=[1])[0].meta[key].rpartition("/")[2] for key in ("path", "path2")] == [
        "b.png",
        "b.png",
    ]


# ---------------------------------------------------------------- depth


def test_depth_in_metres(tmp_path: Path) -> None:
    picture(tmp_path / "images/train/living_room_00012.jpg")
    mask(tmp_path / "annotations/train/living_room_00012.png", [0, 2500, 9999])
    prefix: Any = {"img_path": "images/train", "depth_map_path": "annotations/train"}
    dataset = NYUDataset(tmp_path, prefix)
    sample = dataset[0]
    assert isinstance(sample["depth"], DepthMap)
    assert sample["depth"].array.dtype == np.float32
    assert sample["depth"].array[0, :3].tolist() == pytest.approx([0, 2.5, 9.999])
    assert dataset.classes[sample.meta["category_id"]] == "living_room"
    assert len(dataset.classes) == len(dataset.palette) == 27
    assert "seg" not in sample
    picture(tmp_path / "annotations/train/living_room_00012.png")
    with pytest.raises(DataError, match="one channel"):
        dataset[0]


@pytest.mark.parametrize(
    ("name", "room"),
    [("cafe_0001a_00034", "cafe"), ("study_room_0004_00001", "study_room"), ("office_kitchen_00045", "office_kitchen")],
)
def test_the_room_is_what_precedes_the_first_digit(name: str, room: str, tmp_path: Path) -> None:
    picture(tmp_path / f"images/{name}.jpg")
    dataset = NYUDataset(tmp_path, {"img_path": "images"})
    assert dataset.classes[dataset[0].meta["category_id"]] == room


def test_images_without_depth(tmp_path: Path) -> None:
    picture(tmp_path / "images/cave_1.jpg")
    sample = NYUDataset(tmp_path, {"img_path": "images"})[0]
    assert (list(sample), sample.meta["category_id"]) == ([], -1)
    with pytest.raises(DataError, match="annotations: no such folder"):
        NYUDataset(tmp_path)


# ---------------------------------------------------------------- several sets


class Made:
    """As many empty samples as asked for."""

    palette = ((0, 0, 0), (1, 1, 1))

    def __init__(self, length: int, classes: tuple[str, ...] = ("a", "b")) -> None:
        self.length, self.classes = length, classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.length, range(self.length)[index]


def test_sets_one_after_the_other() -> None:
    both: Any = ConcatDataset([Made(2), Made(0), Made(3)])
    assert [both[i] for i in range(len(both))] == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert both[-1] == (3, 2)
    assert (both.classes, both.palette, both.labels.classes) == (("a", "b"), Made.palette, ("a", "b"))
    for index in (5, -6):
        with pytest.raises(IndexError):
            both[index]


def test_sets_of_other_classes_do_not_mix() -> None:
    with pytest.raises(UsageError, match=r"class 1 of datasets\[1\] is 'c', in datasets\[0\] it is 'b'"):
        ConcatDataset([Made(1), Made(1, ("a", "c"))])
    with pytest.raises(UsageError, match=r"datasets\[1\] has 1 classes, datasets\[0\] has 2"):
        ConcatDataset([Made(1), Made(1, ("a",))])
    with pytest.raises(UsageError, match="at least one"):
        ConcatDataset([])


# ---------------------------------------------------------------- DSDL

STRUCT = {"$def": "struct", "$params": ["cdom"], "$fields": {"media": "Image", "truth": "LabelMap[dom=$cdom]"}}
DOMAIN = {"$def": "class_domain", "classes": ["cat[animal]", "dog[animal]", "tree"]}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A set whose description imports its definitions and keeps its samples in another file."""
    picture(tmp_path / "raw/images/a.jpg")
    mask(tmp_path / "raw/labels/a.png", [0, 1, 2, 3, 255])
    for folder in ("dsdl/defs", "dsdl/set-train"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "dsdl/defs/def.yaml", {"$dsdl-version": "0.5.0", "Scene": STRUCT})
    write(tmp_path / "dsdl/set-train/dom.yaml", {"SceneDom": DOMAIN})
    samples = {"samples": [{"media": "images/a.jpg", "truth": "labels/a.png"}]}
    write(tmp_path / "dsdl/set-train/samples.json", samples)
    data = {"sample-type": "Scene[cdom=SceneDom]", "sample-path": "samples.json"}
    write(tmp_path / "dsdl/set-train/train.yaml", {"$import": ["def", "dom"], "data": data})
    return tmp_path


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def read(root: Path, **arguments: Any) -> DSDLSegDataset:
    prefix: Any = {"img_path": "raw", "seg_map_path": "raw"}
    return DSDLSegDataset(root, "dsdl/set-train/train.yaml", prefix, **arguments)


def test_a_description_in_several_files(described: Path) -> None:
    dataset = read(described)
    assert dataset.classes == ("background", "cat", "dog", "tree")
    assert rows(dataset, 5) == [0, 1, 2, 3, 255]
    assert dataset[0].meta["name"] == "images/a"


def test_some_of_the_described_classes(described: Path) -> None:
    dataset = read(described, used_labels=["tree", "cat"])
    assert dataset.classes == ("tree", "cat")
    assert rows(dataset, 5) == [255, 1, 255, 0, 255]
    with pytest.raises(UsageError, match="no class is called 'trees'"):
        read(described, used_labels=["trees"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("set-train/train.yaml", ["a"], "the description must be a mapping"),
        ("set-train/train.yaml", {"data": {}}, "'data' with a 'sample-type' is missing"),
        ("set-train/train.yaml", {"$import": ["gone"], "data": {"sample-type": "S"}}, "imports 'gone'"),
        ("set-train/train.yaml", {"data": {"sample-type": "Scene"}}, "no struct called 'Scene'"),
        ("defs/def.yaml", {"Scene": {**STRUCT, "$fields": {"media": "Image"}}}, "fields media: Image; supported are"),
        ("set-train/dom.yaml", {"SceneDom": {"$def": "struct"}}, "no class_domain called 'SceneDom'"),
        ("set-train/samples.json", {"samples": []}, "lists no samples"),
        ("set-train/samples.json", {"samples": [{"media": "images/a.jpg"}]}, "sample 0 has no paths"),
        ("set-train/samples.json", {"samples": [{"media": "b.jpg", "truth": "b.png"}]}, "1 of 1 names .* not found"),
    ],
)
def test_descriptions_that_cannot_be_read(described: Path, file: str, content: Any, message: str) -> None:
    write(described / "dsdl" / file, content)
    with pytest.raises(DataError, match=message):
        read(described)


def test_a_missing_description(described: Path) -> None:
    (described / "dsdl/set-train/samples.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read(described)
    (described / "dsdl/set-train/train.yaml").unlink()
    with pytest.raises(DataError, match="description cannot be read"):
        read(described)
