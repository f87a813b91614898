"""Files of labelme, CVAT, Label Studio and YOLO tools, valid and damaged."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from segkernel import build
from segkernel.errors import DataError, UsageError
from segplug_datasets import image
from segplug_datasets.annotations.cvat import CvatDataset
from segplug_datasets.annotations.label_studio import LabelStudioDataset
from segplug_datasets.annotations.labelme import LabelmeDataset
from segplug_datasets.annotations.yolo import YoloSegDataset

SHARED = Path(__file__).parents[4] / "shared/data"
SIZE = (6, 8)
SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4]]


def picture(dataset: Any, index: int = 0) -> list[str]:
    """The label map as text: ``.`` for 0, ``x`` for what does not count."""
    return ["".join("." if v == 0 else "x" if v == 255 else str(v) for v in row) for row in dataset[index]["seg"].array]


def rows(first: int, row: str, count: int) -> list[str]:
    """``count`` times ``row`` from row ``first`` on, background elsewhere."""
    return ["........"] * first + [row] * count + ["........"] * (SIZE[0] - first - count)


def photo(root: Path, *names: str) -> None:
    for name in names:
        image.write(root / name, np.zeros((*SIZE, 3), np.uint8))


# ---------------------------------------------------------------- labelme


def labelme(root: Path, *shapes: Any, **document: Any) -> Path:
    photo(root, "a.jpg", "b.jpg")
    text = {"version": "5.5.0", "imagePath": "a.jpg", "imageData": None, "imageHeight": 6, "imageWidth": 8}
    (root / "a.json").write_text(json.dumps({**text, "shapes": list(shapes), **document}))
    return root


def shape(label: str, kind: str, *points: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def png(mask: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (shape("cat", "polygon", *SQUARE), rows(1, ".111....", 3)),
        (shape("cat", "rectangle", [4, 4], [1, 1]), rows(1, ".111....", 3)),
        (shape("cat", "rectangle", *SQUARE), rows(1, ".111....", 3)),
        (shape("cat", "line", [0, 3], [9, 3]), rows(2, "11111111", 2)),
        (shape("cat", "linestrip", [0, 3], [5, 3], [9, 3]), rows(2, "11111111", 2)),
        (shape("cat", "point", [4, 3]), rows(2, "...11...", 2)),
        (
            shape("cat", "circle", [3, 3], [3, 5]),
            ["........", "..11....", ".1111...", ".1111...", "..11....", "........"],
        ),
        (
            shape("cat", "mask", [2, 1], [4, 2], mask=png(np.array([[1, 0, 1], [1, 1, 1]], np.uint8))),
            ["........", "..1.1...", "..111...", *["........"] * 3],
        ),
        (shape("__ignore__", "polygon", *SQUARE), rows(1, ".xxx....", 3)),
    ],
)
def test_shapes_of_labelme(tmp_path: Path, drawn: Any, expected: list[str]) -> None:
    root = labelme(tmp_path, drawn, shape("cat", "polygon", [0, 0]))
    dataset = pickle.loads(pickle.dumps(LabelmeDataset(root, line_width=2)))
    assert picture(dataset) == expected
    assert dataset.classes == ("background", "cat")
    assert picture(dataset, 1) == rows(0, "", 0)


def test_later_shapes_of_labelme_cover_earlier_ones(tmp_path: Path) -> None:
    root = labelme(tmp_path, shape("cat", "polygon", *SQUARE), shape("ant", "rectangle", [0, 0], [8, 6]))
    assert picture(LabelmeDataset(root)) == ["11111111"] * 6
    assert picture(LabelmeDataset(root, overlap="smaller"))[1] == "12221111"
    assert picture(LabelmeDataset(root, classes={"animal": ["ant", "cat"]}))[1] == "11111111"
    assert picture(LabelmeDataset(root, polygons="outline"))[0] == "11111111"


def test_labelme_files_in_another_folder(tmp_path: Path) -> None:
    labelme(tmp_path / "json", shape("cat", "polygon", *SQUARE))
    photo(tmp_path / "images", "a.png")
    dataset = LabelmeDataset("images", "json", data_root=tmp_path, unannotated="skipped")
    assert len(dataset) == 1
    assert picture(dataset)[1] == ".111...."


@pytest.mark.parametrize(
    ("drawn", "document", "message"),
    [
        (shape("cat", "circle", [1, 1]), {}, "a circle needs 2 points, this one has 1"),
        (shape("cat", "cuboid", [1, 1]), {}, "'cuboid' are not supported"),
        (shape("cat", "mask", [1, 1], [2, 2], mask="%%"), {}, "not a base64-encoded PNG"),
        (shape("cat", "mask", [7, 1], [9, 2], mask=png(np.ones((2, 3), np.uint8))), {}, "is not inside the image"),
        (shape("cat", "polygon", [1, "x"]), {}, r"a polygon of 'cat': points must be pairs"),
        (shape("cat", "polygon"), {"imageHeight": 9}, "made for an image of 9 x 8"),
        ({"points": []}, {}, "a shape has no 'label'"),
        ({}, {"shapes": 3}, "no list of 'shapes'"),
    ],
)
def test_damaged_labelme_files_are_named(tmp_path: Path, drawn: Any, document: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        LabelmeDataset(labelme(tmp_path, drawn, **document))[0]
    assert "a.json" in str(caught.value)


def test_labelme_files_without_an_image(tmp_path: Path) -> None:
    labelme(tmp_path, shape("cat", "polygon", *SQUARE))
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match="1 of 1 JSON files have no image"):
        LabelmeDataset(tmp_path)
    (tmp_path / "b.json").write_text("{")
    photo(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"b\.json: damaged JSON"):
        LabelmeDataset(tmp_path)


# ---------------------------------------------------------------- CVAT


def cvat(root: Path, shapes: str, **attributes: str) -> Path:
    photo(root / "images", "x/a.jpg", "b.jpg")
    size = " ".join(f'{name}="{value}"' for name, value in {"width": "8", "height": "6", **attributes}.items())
    labels = "".join(
        f"<label><name>{name}</name><color>{color}</color><attributes/></label>"
        for name, color in (("dog", "#00ff00"), ("cat &amp; co", "#ff0000"))
    )
    (root / "annotations.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>\n<meta><task><name>é</name>'
        f"<labels>{labels}</labels></task></meta>\n"
        f'<image id="0" name="x/a.jpg" {size}>\n{shapes}\n</image><image id="1" name="b.jpg" width="8" height="6"/>'
        "</annotations>",
        encoding="utf-8",
    )
    return root


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ('<polygon label="cat &amp; co" points="1.0,1.0;4,1;4,4;1,4" z_order="0"/>', rows(1, ".222....", 3)),
        ('<mask label="dog" rle="1, 2, 1, 2" left="2" top="1" width="3" height="2"/>', rows(1, "...11...", 2)),
        ('<box label="dog" xtl="1" ytl="2" xbr="5" ybr="4"/>', rows(2, ".1111...", 2)),
        ('<box label="dog" xtl="1" ytl="2" xbr="5" ybr="4" rotation="90.0"/>', rows(1, "..11....", 4)),
        (
            '<ellipse label="dog" cx="3" cy="3" rx="2" ry="2"></ellipse>',
            ["........", "..11....", ".1111...", ".1111...", "..11....", "........"],
        ),
        ('<polyline label="dog" points="0,3;8,3"/>', rows(2, "11111111", 2)),
        ('<tag label="dog"/><points label="dog" points="1,1"/>', rows(0, "", 0)),
        (
            '<box label="dog" xtl="0" ytl="0" xbr="8" ybr="1" z_order="1"/>'
            '<box label="cat &amp; co" xtl="0" ytl="0" xbr="8" ybr="6"/>',
            ["11111111", *["22222222"] * 5],
        ),
    ],
)
def test_shapes_of_cvat(tmp_path: Path, drawn: str, expected: list[str]) -> None:
    dataset = CvatDataset("annotations.xml", "images", cvat(tmp_path, drawn), line_width=2)
    dataset = pickle.loads(pickle.dumps(dataset))
    assert picture(dataset) == expected
    assert [sample.meta["name"] for sample in dataset] == ["x/a", "b"]
    assert dataset.classes == ("background", "dog", "cat & co")
    assert dataset.palette == ((0, 0, 0), (0, 255, 0), (255, 0, 0))


def test_images_of_cvat_without_shapes(tmp_path: Path) -> None:
    root = cvat(tmp_path, '<box label="dog" xtl="1" ytl="2" xbr="5" ybr="4"/>')
    dataset = CvatDataset("annotations.xml", "images", root, unannotated="ignored", classes=["cat & co"])
    assert picture(dataset, 1) == ["xxxxxxxx"] * 6
    assert picture(dataset) == rows(0, "", 0)


@pytest.mark.parametrize(
    ("drawn", "attributes", "message"),
    [
        ('<box label="dog" xtl="1" ytl="2" xbr="5"/>', {}, "a box lacks 'ybr'"),
        ('<box label="dog" xtl="1" ytl="2" xbr="5" ybr="x"/>', {}, "non-numeric"),
        ('<polygon label="dog" points="1;2"/>', {}, "points must be pairs|non-numeric"),
        ('<polygon label="dog" points=""/>', {}, "non-numeric"),
        ('<mask label="dog" rle="7" left="2" top="1" width="3" height="2"/>', {}, "not 6"),
        ("", {"width": "9"}, "made for an image of 6 x 9"),
        ("", {"width": "wide"}, "the width of an image is 'wide'"),
        ("<box", {}, "damaged XML"),
    ],
)
def test_damaged_cvat_files_are_named(tmp_path: Path, drawn: str, attributes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CvatDataset("annotations.xml", "images", cvat(tmp_path, drawn, **attributes))[0]


def test_files_of_other_formats_than_cvat(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotations><job/></annotations>")
    with pytest.raises(DataError, match="has no <image>"):
        CvatDataset("a.xml", data_root=tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        CvatDataset("b.xml", data_root=tmp_path)
    root = cvat(tmp_path, "")
    (root / "images/b.jpg").unlink()
    with pytest.raises(DataError, match=r"not found in .*: b\.jpg"):
        CvatDataset("annotations.xml", "images", root)


# ---------------------------------------------------------------- Label Studio


def task(kind: str, value: dict[str, Any], address: str = "/data/upload/1/0123abcd-a%20b.jpg", **more: Any) -> Any:
    value = {**value, f"{kind}labels": ["cat"]}
    result = {"type": f"{kind}labels", "value": value, "original_width": 8, "original_height": 6, **more}
    return {"id": 1, "data": {"image": address}, "annotations": [{"result": [result], "was_cancelled": False}]}


def studio(root: Path, *tasks: Any, **arguments: Any) -> LabelStudioDataset:
    photo(root / "images", "a b.jpg", "deep/c.jpg")
    (root / "a.json").write_text(json.dumps(tasks))
    return LabelStudioDataset("a.json", "images", root, **arguments)


def brush(mask: np.ndarray) -> list[int]:
    """The mask as opacity, in Label Studio's bits: one run of values written one by one."""
    values = np.zeros((*mask.shape, 4), np.uint8)
    values[..., 3] = mask * 200
    bits = f"{values.size:032b}{7:05b}" + f"{15:04b}" * 4 + f"000{values.size - 1:016b}"
    bits += "".join(f"{value:08b}" for value in values.ravel())
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


RECTANGLE = {"x": 12.5, "y": 100 / 3, "width": 50, "height": 100 / 3}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("polygon", {"points": [[x * 12.5, y * 100 / 6] for x, y in SQUARE]}, rows(1, ".111....", 3)),
        ("rectangle", {**RECTANGLE, "rotation": 0}, rows(2, ".1111...", 2)),
        # Turned about its first corner, (1, 2): it goes down from there, and left.
        ("rectangle", {**RECTANGLE, "x": 50, "rotation": 90}, rows(2, "..11....", 4)),
        (
            "ellipse",
            {"x": 37.5, "y": 50, "radiusX": 25, "radiusY": 100 / 3, "rotation": 0},
            ["........", "..11....", ".1111...", ".1111...", "..11....", "........"],
        ),
        ("brush", {"format": "rle", "rle": brush(np.eye(6, 8, dtype=np.uint8))}, None),
    ],
)
def test_objects_of_label_studio(tmp_path: Path, kind: str, value: Any, expected: list[str] | None) -> None:
    dataset = pickle.loads(pickle.dumps(studio(tmp_path, task(kind, value))))
    assert dataset.classes == ("background", "cat")
    assert dataset[0].meta["name"] == "a b"
    assert picture(dataset) == (expected or ["." * i + "1" + "." * (7 - i) for i in range(6)])


def test_the_last_annotation_counts(tmp_path: Path) -> None:
    first, second = task("rectangle", RECTANGLE), task("rectangle", {**RECTANGLE, "x": 0})
    cancelled = task("rectangle", {**RECTANGLE, "width": 10})
    cancelled["annotations"][0]["was_cancelled"] = True
    first["annotations"] += second["annotations"] + cancelled["annotations"]
    first["annotations"][1]["result"].insert(0, {"type": "choices", "value": {"choices": ["x"]}})
    assert picture(studio(tmp_path, first)) == rows(2, "1111....", 2)


@pytest.mark.parametrize(
    "address", ["s3://bucket/deep/c.jpg", "/data/local-files/?d=deep/c.jpg", "http://x/c.jpg?v=3", "deep/c.jpg"]
)
def test_images_are_found_by_the_end_of_their_address(tmp_path: Path, address: str) -> None:
    assert studio(tmp_path, task("rectangle", RECTANGLE, address))[0].meta["name"] == "deep/c"


def test_tasks_without_objects(tmp_path: Path) -> None:
    tasks = task("rectangle", RECTANGLE), {"data": {"photo": "c.jpg"}, "annotations": []}
    assert picture(studio(tmp_path, *tasks, unannotated="ignored"), 1) == ["xxxxxxxx"] * 6


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (task("polygon", {"points": [[1]]}), "points must be pairs"),
        (task("rectangle", {"x": 1}), "a rectangle lacks a number: 'y'"),
        (task("brush", {"rle": [1, 2]}), "task of a b: a brush mask ends too early"),
        (task("rectangle", RECTANGLE, original_width=9), "made for an image of 6 x 9"),
        (task("rectangle", RECTANGLE, "d.jpg"), "not in .*: d.jpg"),
        ({"annotations": []}, "a record lacks 'data'"),
        ({"data": {"text": "x"}}, "no URL of an image"),
        (3, "a record cannot be used"),
    ],
)
def test_damaged_tasks_are_named(tmp_path: Path, spoilt: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        studio(tmp_path, spoilt)[0]


def test_images_with_equal_names_are_distinguished(tmp_path: Path) -> None:
    photo(tmp_path / "images", "other/c.jpg")
    assert studio(tmp_path, task("rectangle", RECTANGLE, "/x/other/c.jpg"))[0].meta["name"] == "other/c"
    with pytest.raises(DataError, match=r"may be .*deep/c\.jpg"):
        studio(tmp_path, task("rectangle", RECTANGLE, "/x/c.jpg"))
    with pytest.raises(DataError, match="no task"):
        studio(tmp_path)


# ---------------------------------------------------------------- YOLO


def yolo(root: Path, text: str | None, **description: Any) -> Path:
    photo(root, "images/train/a.jpg", "images/train/b.jpg")
    if text is not None:
        (root / "labels/train").mkdir(parents=True, exist_ok=True)
        (root / "labels/train/a.txt").write_text(text)
    content = {"path": ".", "train": "images/train", "names": {0: "cat", 5: "dog"}, **description}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return root


def ring(number: int, points: Any) -> str:
    return f"{number} " + " ".join(f"{x / 8:.6f} {y / 6:.6f}" for x, y in points) + "\n"


def test_polygons_of_yolo(tmp_path: Path) -> None:
    root = yolo(tmp_path, ring(5, SQUARE) + "\n" + ring(0, [[2, 2], [3, 2], [3, 3], [2, 3]]))
    dataset = pickle.loads(pickle.dumps(YoloSegDataset(data_root=root)))
    assert dataset.classes == ("background", "cat", "dog")
    assert picture(dataset) == ["........", ".2222...", ".2112...", ".2112...", ".2222...", "........"]
    assert picture(YoloSegDataset(data_root=root, polygons="area", overlap="order"))[1:4] == [
        *(".222....", ".212....", ".222....")
    ]
    assert picture(dataset, 1) == rows(0, "", 0)
    assert len(YoloSegDataset(data_root=root, unannotated="skipped")) == 1


def test_locations_of_yolo_files(tmp_path: Path) -> None:
    root = yolo(tmp_path, ring(0, SQUARE), path="/nowhere/at/all", names=["cat"], val=["images/train"])
    (root / "val.txt").write_text("./images/train/a.jpg\n")
    assert len(YoloSegDataset(data_root=root, split="val")) == 2
    yolo(tmp_path, None, names=["cat"], val="val.txt")
    spec = {"type": "YoloSegDataset", "data_root": str(root), "split": "val", "classes": ["cat"]}
    assert picture(build("datasets", spec))[1] == ".1111..."
    (root / "labels/train/a.txt").rename(root / "images/train/a.txt")
    assert picture(YoloSegDataset(data_root=root, split="val"))[1] == ".1111..."
    (root / "other").mkdir()
    (root / "images/train/a.txt").rename(root / "other/a.txt")
    assert picture(YoloSegDataset(data_root=root, split="val", labels="other"))[1] == ".1111..."


def test_keypoints_of_yolo_are_not_polygons(tmp_path: Path) -> None:
    pose = "0 0.5 0.5 0.5 0.333333 0.4 0.4 2 0.6 0.6 1\n"
    with pytest.raises(DataError, match="not pixels or keypoints"):
        YoloSegDataset(data_root=yolo(tmp_path, pose))[0]
    root = yolo(tmp_path, pose.replace(" 2 ", " 1 "), kpt_shape=[2, 3])
    with pytest.raises(DataError, match="a box, not a polygon"):
        YoloSegDataset(data_root=root)[0]
    assert picture(YoloSegDataset(data_root=root, boxes="filled")) == rows(2, "..1111..", 2)


def test_boxes_of_yolo(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.5 0.333333\n")
    with pytest.raises(DataError, match=r"a\.txt, line 1: a box, not a polygon"):
        YoloSegDataset(data_root=root)[0]
    assert picture(YoloSegDataset(data_root=root, boxes="filled")) == rows(2, "..1111..", 2)
    assert picture(YoloSegDataset(data_root=root, boxes="ignored")) == rows(2, "..xxxx..", 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a b c d e f", "line 1: expected a class"),
        ("\n3 0 0 1 0 1 1", "line 2: class 3 is not one of the 2 names"),
        ("nan 0 0 1 0 1 1", "class nan"),
        ("0 0 0 1", "three points or more"),
        ("0 0 0 1 0 1 1 1", "three points or more"),
        ("0 10 10 70 10 70 60", "relative to width and height"),
        ("0 nan 0 1 0 1 1", "points must be pairs"),
    ],
)
def test_damaged_yolo_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        YoloSegDataset(data_root=yolo(tmp_path, text))[0]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"names": None}, "no 'names'"),
        ({"train": None, "val": "images"}, "no split 'train': available: val"),
        ({"train": "pictures"}, "no such folder"),
        ({"train": "images/train/none.txt"}, "cannot be read"),
    ],
)
def test_damaged_yolo_descriptions(tmp_path: Path, description: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        YoloSegDataset(data_root=yolo(tmp_path, "", **description))


def test_names_of_yolo_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'cat'"):
        YoloSegDataset(data_root=yolo(tmp_path, ""), classes=["cats"])


@pytest.mark.skipif(not (SHARED / "coco_sample").is_dir(), reason="the COCO sample is not here")
def test_real_yolo_files_agree_with_the_semantic_ones(tmp_path: Path) -> None:
    root = SHARED / "coco_sample"
    names = yaml.safe_load((root / "instance_config.yaml").read_text())["names"]
    text = yaml.safe_dump({"path": str(root), "val": "images/val2017", "names": names})
    (tmp_path / "data.yaml").write_text(text)
    dataset = YoloSegDataset(tmp_path / "data.yaml", "val", labels=root / "instance_yoloseg/val2017")
    table = np.zeros(256, np.uint8)
    table[list(names)] = np.arange(1, len(names) + 1)
    equal, total = 0, 0
    for index in range(0, 100, 5):
        sample = dataset[index]
        truth = table[image.read_mask(root / f"semantic/val2017/{Path(sample.meta['name']).name}.png")]
        equal, total = equal + int((truth == sample["seg"].array).sum()), total + truth.size
    assert equal / total > 0.99  # polygons have no holes, and a crowd is many of them
