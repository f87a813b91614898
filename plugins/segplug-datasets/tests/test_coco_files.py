"""COCO's three kinds of files, valid and damaged."""

from __future__ import annotations

import cProfile
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel import build
from segkernel.errors import DataError, UsageError
from segkernel.sample import WeightMap
from segplug_datasets import image
from segplug_datasets.annotations import objects
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.coco_keypoints import CocoKeypointDataset
from segplug_datasets.annotations.coco_panoptic import CocoPanopticDataset
from segplug_datasets.concat import ConcatDataset
from segplug_datasets.fields import Boxes, InstanceMasks, Keypoints
from segplug_datasets.geometry import Flip, Resize
from segplug_datasets.samplers import AspectRatioGroups

SHARED = Path(__file__).parents[4] / "shared/data"
SIZE = (6, 8)
NAMES = ("person", "car", "tie")


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(category: int, segmentation: Any, picture: int = 11, **more: Any) -> dict[str, Any]:
    return {"id": 5, "image_id": picture, "category_id": category, "segmentation": segmentation, **more}


def put(root: Path, shapes: list[dict[str, Any]], **changes: Any) -> Path:
    """Write images 11, 12 and 13, and a file with the annotations; category ids are 1, 3 and 32."""
    entries = [{"id": n, "file_name": f"{n:012d}.png", "height": SIZE[0], "width": SIZE[1]} for n in (12, 11, 13)]
    for entry in entries:
        image.write(root / "val" / str(entry["file_name"]), np.zeros((*SIZE, 3), np.uint8))
    categories = [{"id": number, "name": name} for number, name in zip((1, 3, 32), NAMES)]
    document = {"info": {"a": [1, {}]}, "images": entries, "annotations": shapes, "categories": categories}
    (root / "a.json").write_text(json.dumps(document | changes))
    return root


def load(root: Path, **arguments: Any) -> CocoInstanceDataset:
    return CocoInstanceDataset("a.json", "val", data_root=root, **arguments)


def seg(dataset: Any, index: int = 1) -> np.ndarray:
    return dataset[index]["seg"].array


# ---------------------------------------------------------------- instances


def test_objects_become_classes(tmp_path: Path) -> None:
    rle = {"size": list(SIZE), "counts": [0, 6, 42]}  # the first column
    dataset = load(put(tmp_path, [annotation(3, box(2, 1, 5, 4)), annotation(32, rle)]))
    assert dataset.classes == ("background", *NAMES)
    assert dataset.palette[0] == (0, 0, 0)
    assert [sample.meta["name"] for sample in dataset] == [f"{n:012d}" for n in (12, 11, 13)]  # type: ignore
    labels = seg(pickle.loads(pickle.dumps(dataset)))
    assert labels[2].tolist() == [3, 0, 2, 2, 2, 0, 0, 0]
    assert np.bincount(labels.ravel()).tolist() == [33, 0, 9, 6]
    assert (seg(dataset, 0) == 0).all()


def test_parts_of_an_object_are_united(tmp_path: Path) -> None:
    dataset = load(put(tmp_path, [annotation(1, box(0, 0, 2, 2) + box(1, 1, 3, 3))]))
    assert (seg(dataset) == 1).sum() == 7


@pytest.mark.parametrize(("overlap", "middle"), [(None, 3), ("smaller", 3), ("order", 1)])
def test_overlapping_objects(tmp_path: Path, overlap: Any, middle: int) -> None:
    shapes = [annotation(32, box(3, 2, 5, 4)), annotation(1, box(0, 0, 8, 6))]
    assert seg(load(put(tmp_path, shapes), overlap=overlap))[3, 4] == middle


def test_crowds_are_below_other_objects(tmp_path: Path) -> None:
    crowd = annotation(1, {"size": list(SIZE), "counts": [0, 12, 36]}, iscrowd=1)  # two columns
    root = put(tmp_path, [annotation(3, box(1, 0, 8, 6)), crowd])
    assert seg(load(root))[0].tolist() == [255, *[2] * 7]
    assert seg(load(root, crowd="class"))[0].tolist() == [1, *[2] * 7]
    assert seg(load(root, classes=["car"]))[0].tolist() == [0, *[1] * 7]
    assert seg(load(root, classes=["car"], others="ignored"))[0].tolist() == [255, *[1] * 7]


@pytest.mark.parametrize(
    ("arguments", "classes", "row"),
    [
        ({"classes": ["tie", "person"]}, ("background", "tie", "person"), [2, 0, 1]),
        ({"classes": {"clothed": ["tie", "person"]}}, ("background", "clothed"), [1, 0, 1]),
        ({"classes": ["tie"], "others": "tie"}, ("background", "tie"), [1, 1, 1]),
        ({"classes": ["tie"], "others": "ignored"}, ("background", "tie"), [255, 255, 1]),
        ({"classes": {"tie": "tie", "rest": []}, "others": "rest"}, ("background", "tie", "rest"), [2, 2, 1]),
        ({"background": None}, NAMES, [0, 1, 2]),
        ({"background": "street"}, ("street", *NAMES), [1, 2, 3]),
        ({"classes": {"car": "car", "background": "tie"}}, ("car", "background"), [1, 0, 1]),
    ],
)
def test_which_classes(tmp_path: Path, arguments: Any, classes: Any, row: list[int]) -> None:
    shapes = [annotation(c, box(x, 0, x + 1, 6)) for x, c in enumerate((1, 3, 32))]
    dataset = load(put(tmp_path, shapes), **arguments)
    assert dataset.classes == classes
    assert seg(dataset)[0, :3].tolist() == row
    empty = 255 if arguments.get("background", "") is None else classes.index(arguments.get("background", "background"))
    assert (seg(dataset)[0, 3:] == empty).all()


def test_images_without_annotations(tmp_path: Path) -> None:
    root = put(tmp_path, [annotation(1, box(0, 0, 1, 1))])
    assert (seg(load(root, unannotated="ignored"), 0) == 255).all()
    assert [sample.meta["name"] for sample in load(root, unannotated="skipped")] == [f"{11:012d}"]  # type: ignore
    with pytest.raises(DataError, match="no image here has an annotation"):
        load(put(tmp_path, []), unannotated="skipped")


@pytest.mark.parametrize(
    "lines", ["11\n12\n", "000000000011\n000000000012", "val/000000000011.png\n000000000012.png 0"]
)
def test_lists_of_images(tmp_path: Path, lines: str) -> None:
    root = put(tmp_path, [annotation(1, box(0, 0, 8, 6))])
    (root / "minival.txt").write_text(lines)
    dataset = load(root, ids="minival.txt")
    assert [sample.meta["name"] for sample in dataset] == [f"{n:012d}" for n in (11, 12)]  # type: ignore
    assert (seg(dataset, 0) == 1).all()
    (root / "minival.txt").write_text("11\n99\n")
    with pytest.raises(DataError, match=r"1 of 2 names listed in .*: 99"):
        load(root, ids="minival.txt")


def test_some_samples_and_a_config(tmp_path: Path) -> None:
    put(tmp_path, [annotation(1, box(0, 0, 8, 6))])
    spec = {"type": "CocoInstanceDataset", "ann_file": "a.json", "images": "val", "data_root": str(tmp_path)}
    dataset = build("datasets", {**spec, "indices": [1], "classes": {"x": ["person"]}})
    assert len(dataset) == 1
    assert (seg(dataset, 0) == 1).all()


def test_annotations_with_boxes_only(tmp_path: Path) -> None:
    root = put(tmp_path, [annotation(1, [], bbox=[1, 1, 2, 2])])
    with pytest.raises(DataError, match=r"annotation 5: an object has no outline\s+set 'boxes'"):
        load(root)[1]
    assert (seg(load(root, boxes="filled")) == 1).sum() == 4
    assert (seg(load(root, boxes="ignored")) == 255).sum() == 4


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (annotation(1, [[1, 2, 3]]), "annotation 5: points must be pairs"),
        (annotation(1, {"size": [9, 9], "counts": [81]}), "annotation 5: a mask of size"),
        (annotation(1, "x"), "annotation 5: a segmentation must be"),
        (annotation(2, box(0, 0, 1, 1)), "category 2 is not defined in the file"),
        (annotation(1, None), "has no outline"),
    ],
)
def test_damaged_annotations_are_named(tmp_path: Path, spoilt: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(put(tmp_path, [spoilt]))[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "'images' is missing or empty"),
        ({"categories": []}, "'categories' is missing or empty"),
        ({"categories": [{"id": 1}]}, "a category lacks 'name'"),
        ({"annotations": [{"id": 1}]}, "a record lacks 'image_id'"),
        ({"annotations": [annotation(1, [], 99)]}, "annotations of image 99"),
        ({"images": [{"id": 1, "file_name": "no.png"}]}, "not found in .*: no.png"),
        (
            {"images": [{"id": 11, "file_name": f"{11:012d}.png", "height": 9, "width": 9}]},
            "made for an image of 9 x 9",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(put(tmp_path, [], **changes))[0]


@pytest.mark.parametrize("text", ["", "[]", '{"images": [', '{"images": [{]}', "\x00", '{"a": 1', "[" * 100_000])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    put(tmp_path, [])
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        load(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        CocoInstanceDataset("b.json", "val", data_root=tmp_path)


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    dataset = load(put(tmp_path, [annotation(1, box(0, 0, 1, 1))]))
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="has changed"):
        dataset[1]


def test_unknown_names(tmp_path: Path) -> None:
    put(tmp_path, [])
    for wrong in ({"classes": ["persn"]}, {"classes": ["car"], "others": "cr"}):
        with pytest.raises(UsageError, match="did you mean"):
            load(tmp_path, **wrong)
    with pytest.raises(UsageError, match="256 classes are too many"):
        load(put(tmp_path, [], categories=[{"id": i, "name": str(i)} for i in range(255)]))


def test_names_in_other_scripts(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "人"}, {"id": 3, "name": "é"}]
    put(tmp_path, [annotation(3, box(0, 0, 8, 6))], categories=categories)
    text = json.dumps(json.loads((tmp_path / "a.json").read_text()), ensure_ascii=False)
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode(), json.dumps(json.loads(text)).encode()):
        (tmp_path / "a.json").write_bytes(content)
        dataset = load(tmp_path)
        assert dataset.classes == ("background", "人", "é")
        assert (seg(dataset) == 2).all()


def test_a_large_file_takes_few_calls_and_is_small_for_workers(tmp_path: Path) -> None:
    count = 20_000
    entries = [{"id": n, "file_name": "a.png", "height": 6, "width": 8} for n in range(1000)]
    ring = np.round(np.random.default_rng(0).uniform(0, 8, 60), 2).tolist()
    shapes = [annotation(1, [ring], n % 1000) for n in range(count)]
    put(tmp_path, shapes, images=entries)
    image.write(tmp_path / "val/a.png", np.zeros((*SIZE, 3), np.uint8))
    profile = cProfile.Profile()
    dataset = profile.runcall(load, tmp_path)
    assert sum(function.callcount for function in profile.getstats()) < 50 * count
    assert len(pickle.dumps(dataset)) < 20 * count
    assert len(dataset._load(dataset._keys[999])) == 20


# ---------------------------------------------------------------- people


def person(points: list[int], segmentation: Any, **more: Any) -> dict[str, Any]:
    marked = sum(1 for v in points[2::3] if v)
    return annotation(1, segmentation, keypoints=points, num_keypoints=marked, bbox=[1, 1, 3, 4], **more)


PEOPLE = [
    person([2, 3, 2, 5, 1, 1, 0, 0, 0], box(1, 1, 4, 5)),
    person([0] * 9, box(4, 0, 6, 6)),
    annotation(1, {"size": list(SIZE), "counts": [36, 12]}, iscrowd=1),  # the last two columns
]
JOINTS = [{"id": 1, "name": "person", "keypoints": ["head", "hand", "foot"], "skeleton": [[1, 2], [1, 3]]}]


def people(root: Path, **arguments: Any) -> CocoKeypointDataset:
    put(root, PEOPLE, categories=JOINTS)
    return CocoKeypointDataset("a.json", "val", data_root=root, **arguments)


def test_people_have_joints_boxes_and_masks(tmp_path: Path) -> None:
    dataset = pickle.loads(pickle.dumps(people(tmp_path)))
    sample = dataset[1]
    assert dataset.classes == ("background", "person")
    assert dataset.keypoint_names == ("head", "hand", "foot")
    assert dataset.skeleton == [(0, 1), (0, 2)]
    kinds = {"keypoints": Keypoints, "boxes": Boxes, "instances": InstanceMasks, "keypoint_weight": WeightMap}
    assert all(isinstance(sample[name], kind) for name, kind in kinds.items())
    assert sample["keypoints"].array.tolist() == [[[2.5, 3.5, 2], [5.5, 1.5, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    assert sample["boxes"].array.tolist() == [[1, 1, 4, 5]] * 2
    assert sample["instances"].array.sum((0, 1)).tolist() == [12, 12]
    assert sample["seg"].array[2].tolist() == [0, 1, 1, 1, 1, 1, 255, 255]
    assert sample["keypoint_weight"].array[2].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_joints_move_with_the_pixels(tmp_path: Path) -> None:
    sample = people(tmp_path)[1].apply(Flip("horizontal"))
    x, y, _ = sample["keypoints"].array[0, 0]
    assert (x, y) == (5.5, 3.5)  # pixel 2 of 8 becomes pixel 5
    assert sample["instances"].array[3, 5, 0] == 1


def test_people_without_joints_may_be_ignored(tmp_path: Path) -> None:
    sample = people(tmp_path, without_keypoints="ignored", weights="weight", instances=False)[1]
    assert sample["seg"].array[2].tolist() == [0, 1, 1, 1, 255, 255, 255, 255]
    assert {*sample} == {"seg", "boxes", "classes", "crowd", "area", "keypoints", "weight"}
    assert "keypoint_weight" not in people(tmp_path, weights=None)[1]


def test_images_without_people(tmp_path: Path) -> None:
    sample = people(tmp_path)[0]
    shapes = [sample[name].array.shape for name in ("keypoints", "boxes", "instances", "keypoint_weight")]
    assert shapes == [(0, 3, 3), (0, 4), (*SIZE, 0), SIZE]
    assert len(people(tmp_path, unannotated="skipped")) == 1


def test_files_without_joints(tmp_path: Path) -> None:
    put(tmp_path, [])
    with pytest.raises(DataError, match="no category in this file has 'keypoints'"):
        CocoKeypointDataset("a.json", "val", data_root=tmp_path)
    put(tmp_path, [person([1, 2], box(0, 0, 1, 1))], categories=JOINTS)
    with pytest.raises(DataError, match=r"not 3 \(x, y, v\) triples"):
        CocoKeypointDataset("a.json", "val", data_root=tmp_path)[1]


@pytest.mark.skipif(not (SHARED / "coco_keypoints_tiny").is_dir(), reason="the COCO keypoints sample is not here")
def test_real_people() -> None:
    root = SHARED / "coco_keypoints_tiny"
    dataset = CocoKeypointDataset("test_coco.json", data_root=root)
    samples = [dataset[index] for index in range(4)]
    assert sum(len(sample["boxes"].array) for sample in samples) == 14
    assert sum(int((sample["keypoints"].array[..., 2] > 0).any(1).sum()) for sample in samples) == 12
    areas = [one["area"] for one in json.loads((root / "test_coco.json").read_text())["annotations"]]
    drawn = [count for sample in samples for count in sample["instances"].array.sum((0, 1), int).tolist()]
    np.testing.assert_allclose(sorted(drawn), sorted(areas), rtol=0.02)  # the file's areas are exact


# ---------------------------------------------------------------- panoptic


def panoptic(root: Path, **arguments: Any) -> CocoPanopticDataset:
    """One image: columns of segments 1 (a car), 300 (a crowd of cars), 70000 (sky) and 0."""
    image.write(root / "val/a.png", np.zeros((2, 4, 3), np.uint8))
    row = [(1, 0, 0), (44, 1, 0), (112, 17, 1), (0, 0, 0)]
    image.write(root / "a/a.png", np.array([row, row], np.uint8))
    segments = [{"id": 1, "category_id": 3}, {"id": 300, "category_id": 3, "iscrowd": 1}]
    segments.append({"id": 70000, "category_id": 187, "iscrowd": 0})
    document = {
        "images": [{"id": 4, "file_name": "a.png"}, {"id": 5, "file_name": "none.png"}],
        "annotations": [{"image_id": 4, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 3, "name": "car", "isthing": 1, "color": [1, 2, 3]},
            {"id": 187, "name": "sky", "isthing": 0, "color": [4, 5, 6]},
        ],
    }
    (root / "a.json").write_text(json.dumps(document))
    return CocoPanopticDataset("a.json", "val", data_root=root, **arguments)


@pytest.mark.parametrize(
    ("arguments", "classes", "row"),
    [
        ({}, ("car", "sky"), [0, 0, 1, 255]),
        ({"crowd": "ignored"}, ("car", "sky"), [0, 255, 1, 255]),
        ({"kinds": "things"}, ("car",), [0, 0, 255, 255]),
        ({"kinds": "stuff"}, ("sky",), [255, 255, 0, 255]),
        ({"classes": {"up": "sky", "rest": []}, "others": "rest"}, ("up", "rest"), [1, 1, 0, 255]),
    ],
)
def test_segments_become_classes(tmp_path: Path, arguments: Any, classes: Any, row: list[int]) -> None:
    dataset = pickle.loads(pickle.dumps(panoptic(tmp_path, **arguments)))
    assert dataset.classes == classes
    assert dataset[0]["seg"].array.tolist() == [row, row]
    assert panoptic(tmp_path).palette == ((1, 2, 3), (4, 5, 6))


def test_segments_of_things_are_objects(tmp_path: Path) -> None:
    sample = panoptic(tmp_path, instances="polygons", kinds="things")[0]
    assert sample["classes"].array.tolist() == [0, 0]
    assert sample["crowd"].array.tolist() == [False, True]
    assert sample["boxes"].array.tolist() == [[0, 0, 1, 2], [1, 0, 2, 2]]
    assert sample["instances"].masks(sample.size).sum((0, 1)).tolist() == [2, 2]
    assert panoptic(tmp_path, instances="boxes", classes=["sky"])[0]["boxes"].count == 0


def test_segments_that_are_not_listed(tmp_path: Path) -> None:
    dataset = panoptic(tmp_path)
    image.write(tmp_path / "a/a.png", np.full((2, 4, 3), 9, np.uint8))
    with pytest.raises(DataError, match=r"segments \[592137\] are not in"):
        dataset[0]
    image.write_mask(tmp_path / "a/a.png", np.ones((2, 4)))
    with pytest.raises(DataError, match="RGB colours"):
        dataset[0]
    (tmp_path / "a/a.png").unlink()
    with pytest.raises(DataError, match=r"not found in .*a\.png"):
        CocoPanopticDataset("a.json", "val", data_root=tmp_path)


def test_an_instance_file_is_not_panoptic(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks 'segments_info'"):
        CocoPanopticDataset("a.json", "val", data_root=put(tmp_path, [annotation(1, [])]))


@pytest.mark.skipif(not (SHARED / "coco_sample").is_dir(), reason="the COCO sample is not here")
def test_real_panoptic_files_give_the_semantic_ones() -> None:
    root = SHARED / "coco_sample"
    dataset = CocoPanopticDataset("panoptic/panoptic_val2017.json", "images/val2017", "panoptic/val2017", root)
    document = json.loads((root / "panoptic/panoptic_val2017.json").read_text())
    table = np.full(256, 255, np.uint8)
    for place, category in enumerate(document["categories"]):
        table[category["id"]] = place
    assert len(dataset) == 100
    for index in range(0, 100, 10):
        sample = dataset[index]
        truth = image.read_mask(root / f"semantic/val2017/{sample.meta['name']}.png")
        assert np.array_equal(sample["seg"].array, table[truth])


# ---------------------------------------------------------------- objects


def test_objects_have_boxes_classes_and_masks(tmp_path: Path) -> None:
    rle = {"size": list(SIZE), "counts": [0, 6, 42]}
    shapes = [
        annotation(3, box(2, 1, 5, 4), bbox=[2, 1, 3, 9], area=8.5),
        annotation(32, rle, iscrowd=1),
        annotation(1, [[1, 1, 4, 1, 4, 3], [6, 4, 9, 4, 9, 9]]),
        annotation(1, box(0, 0, 2, 2), ignore=1),
        annotation(1, box(0, 0, 2, 2), area=0),
        annotation(1, box(9, 9, 12, 12)),
    ]
    dataset = load(put(tmp_path, shapes), instances="polygons", background=None)
    sample = pickle.loads(pickle.dumps(dataset))[1]
    assert (dataset.classes, dataset.category_ids) == (NAMES, (1, 3, 32))
    assert sample.meta["image_id"] == 11
    assert sample["classes"].array.tolist() == [1, 2, 0]
    assert sample["boxes"].array.tolist() == [[2, 1, 5, 6], [0, 0, 1, 6], [1, 1, 8, 6]]
    assert sample["crowd"].array.tolist() == [False, True, False]
    assert sample["area"].array.tolist() == [8.5, 6, 6]
    assert sample["instances"].masks(SIZE).sum((0, 1)).tolist() == [9, 6, 6]
    assert [len(rings) for rings in sample["instances"].polygons()] == [1, 1, 2]
    bitmaps = load(tmp_path, instances="masks", classes=["tie", "person"])[1]
    assert np.array_equal(bitmaps["instances"].array, sample["instances"].masks(SIZE)[..., 1:])
    assert bitmaps["classes"].array.tolist() == [1, 2]
    assert "instances" not in load(tmp_path, instances="boxes")[1]
    assert "boxes" not in load(tmp_path)[1]
    assert [field.count for field in dataset[0].fields.values() if hasattr(field, "count")] == [0] * 5


def test_polygons_smaller_than_a_pixel_are_kept(tmp_path: Path) -> None:
    specks = [[1.1, 1.1, 1.3, 1.1, 1.3, 1.3], [2.6, 1.1, 2.9, 1.1, 2.9, 1.4], [5, 5, 6, 6]]
    sample = load(put(tmp_path, [annotation(1, specks, bbox=[1.1, 1.1, 1.8, 0.3], area=1)]), instances="polygons")[1]
    assert [ring.shape for ring in sample["instances"].polygons()[0]] == [(3, 2), (3, 2)]
    assert sample["instances"].masks(SIZE).sum() == 0
    assert sample.apply(Resize((60, 80)))["instances"].masks((60, 80)).sum() > 4


def test_too_many_bitmaps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MOST_MASK_BYTES", 2 * 6 * 8)
    root = put(tmp_path, [annotation(1, box(0, 0, 2, 2))] * 3)
    with pytest.raises(DataError, match=r"3 masks of 6 x 8 pixels take .*\n.*instances: polygons"):
        load(root, instances="masks")[1]
    assert load(root, instances="polygons")[1]["instances"].count == 3


@pytest.mark.parametrize("outline", [box(0, 0, 4, 4), {"size": [6, 8], "counts": [0, 4, 2, 4, 2, 4, 2, 4, 26]}])
def test_objects_of_too_many_pixels_are_refused_while_they_are_read(
    outline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "MOST_REGION_BYTES", 2 * 4 * 4)
    root = put(tmp_path, [annotation(1, outline)] * 4)
    for instances in ("polygons", "boxes"):
        with pytest.raises(DataError, match=r"pixels of its first 3 objects take more than .* GiB.*\n.*cut the image"):
            load(root, instances=instances)[1]
    assert load(root)[1]["seg"].array.any()


def test_keypoints_of_objects(tmp_path: Path) -> None:
    joints = [{**JOINTS[0], "keypoints": ["head", "left_hand", "right_hand"]}, {"id": 3, "name": "car"}]
    root = put(tmp_path, [*PEOPLE, annotation(3, box(0, 0, 3, 3))], categories=joints)
    dataset = load(root, instances="polygons")
    points = dataset[1]["keypoints"]
    assert (points.array[:, :, 2] > 0).sum(1).tolist() == [2, 0, 0, 0]
    assert (points.array[0, 0].tolist(), points.mirrored) == ([2.5, 3.5, 2], [0, 2, 1])
    assert people(tmp_path, crowds=True)[1]["crowd"].array.tolist() == [False, False, True]
    assert people(tmp_path, background=None, instances="polygons")[1]["classes"].array.tolist() == [0, 0]


def test_sizes_of_images_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load(put(tmp_path, [annotation(1, box(0, 0, 2, 2))]), instances="polygons")
    both = ConcatDataset([dataset, dataset])
    monkeypatch.setattr(CocoInstanceDataset, "__getitem__", None)  # no image is read
    assert sorted(AspectRatioGroups().order(both, 0, 0, 2)) == list(range(6))
    entries = [{"id": 11, "file_name": f"{11:012d}.png"}]
    assert load(put(tmp_path, [], images=entries)).image_sizes is None
