"""Objects of images: masks as polygons, their fields, what leaves the image, and the data sets that have them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segkernel.errors import DataError
from segkernel.sample import Sample, collate
from segplug_datasets import image, pages
from segplug_datasets.annotations.numbered import NumberedMaskDataset, PennFudanDataset
from segplug_datasets.annotations.outline import outline
from segplug_datasets.annotations.raster import polygon
from segplug_datasets.cityscapes import CityscapesDataset
from segplug_datasets.fields import Boxes, InstanceMasks, Keypoints, ObjectValues, Polygons, mirrored_points
from segplug_datasets.geometry import Crop, Flip, Pad, Resize, Warp
from segplug_datasets.transforms import layers
from segplug_datasets.transforms.layers import Layer, composite
from segplug_datasets.transforms.objects import AspectCrop, FilterAnnotations
from segplug_datasets.transforms.warp import QuarterTurn, _turn, about_center

SHARED = Path(__file__).parents[4] / "shared/data"
RNG = np.random.default_rng(0)
NAMES = ("nose", "left_eye", "right_eye")


def square(left: float, top: float, edge: float) -> np.ndarray:
    return np.array([[left, top], [left + edge, top], [left + edge, top + edge], [left, top + edge]])


def street(*places: tuple[float, float], size: tuple[int, int] = (40, 60)) -> Sample:
    """A sample with a square of eight pixels at each place."""
    points = [[[x + 4, y + 4, 2], [x + 2, y + 2, 2], [x + 6, y + 2, 2]] for x, y in places]
    polygons = Polygons.of([[square(x, y, 8)] for x, y in places])
    fields = {
        "boxes": Boxes(np.array([[x, y, x + 8, y + 8] for x, y in places], np.float32).reshape(-1, 4)),
        "classes": ObjectValues(np.arange(len(places))),
        "crowd": ObjectValues(np.zeros(len(places), bool)),
        "instances": polygons,
        "keypoints": Keypoints(np.array(points, np.float32).reshape(-1, 3, 3), mirrored_points(NAMES)),
        "bitmaps": InstanceMasks(polygons.masks(size)),
    }
    return Sample(fields, {"name": "street"}, np.zeros((*size, 3), np.uint8))


# ---------------------------------------------------------------- outlines


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_an_outline_has_the_pixels_of_its_mask(share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((int(rng.integers(1, 20)), int(rng.integers(1, 20)))) < share
        drawn = np.zeros(mask.shape, bool)
        polygon(outline(mask), drawn.shape).paint(drawn, True)
        assert np.array_equal(drawn, mask)


def test_an_outline_has_no_more_points_than_corners() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:6, 3:8] = True
    assert sorted(map(tuple, outline(mask).tolist())) == [(3, 2), (3, 6), (8, 2), (8, 6)]


# ---------------------------------------------------------------- polygons


def test_polygons_are_listed_by_object() -> None:
    parts = Polygons.of([[square(0, 0, 2), square(1, 1, 2)], [], [square(5, 5, 1)]])
    assert (parts.count, parts.objects.tolist(), parts.parts.tolist()) == (3, [0, 0, 2], [0, 4, 8, 12])
    assert parts.masks((8, 8)).sum((0, 1)).tolist() == [7, 0, 1]
    chosen = parts.select(np.array([False, True, True])).join([parts.select(np.array([2, 0])), parts])
    assert [len(rings) for rings in chosen.polygons()] == [1, 2, 2, 0, 1]
    tensors = pickle.loads(pickle.dumps(parts)).tensor()
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "points": (12, 2), "parts": (4,), "objects": (3,)
    }  # fmt: skip


def test_polygons_stay_polygons_under_a_paste() -> None:
    mask = np.zeros((40, 60), bool)
    mask[:, 14:] = True
    laid = composite([Layer(street((10, 10), (2, 20))), Layer(street(), mask=mask)], (40, 60))
    assert laid["boxes"].array.tolist() == [[10, 10, 14, 18], [2, 20, 10, 28]]
    assert laid["instances"].masks((40, 60)).sum((0, 1)).tolist() == [32, 64]
    assert np.array_equal(laid["instances"].masks((40, 60)), laid["bitmaps"].array)
    assert laid["instances"].polygons()[1][0].tolist() == square(2, 20, 8).tolist()


def test_masks_of_many_objects_are_drawn_near_them_or_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(4 * n, 10.0) for n in range(12)]
    drawn: list[tuple[int, tuple[int, int]]] = []
    masks = Polygons.masks
    monkeypatch.setattr(Polygons, "masks", lambda self, size: drawn.append((self.count, size)) or masks(self, size))

    def laid(*without: str) -> Sample:
        samples = street(*places), street((20, 14))
        for name in without:
            del samples[0][name], samples[1][name]
        drawn.clear()
        return composite([Layer(samples[0]), Layer(samples[1], 3, 5)], (50, 80))

    whole = laid()
    near = laid("bitmaps")  # which do not know where objects are
    assert max(height * width for _, (height, width) in drawn) <= 8 * 8
    monkeypatch.setattr(layers, "_MASK_BYTES", 2 * 50 * 80)
    parts = laid()
    assert max(count for count, _ in drawn) == 2
    for name in near:
        assert np.array_equal(whole[name].array, parts[name].array), name
        assert np.array_equal(whole[name].array, near[name].array), name


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("geometry", "swapped"),
    [(Flip("horizontal"), True), (Flip("vertical"), True), (Flip("diagonal"), False), (QuarterTurn(1), False),
     (Resize((20, 90)), False)],
)  # fmt: skip
def test_left_and_right_keypoints_are_swapped_in_mirror_images(geometry: Any, swapped: bool) -> None:
    before = street((10, 10))
    moved = geometry.move(before["keypoints"].array[0, :, :2], before.size)
    after = before.apply(geometry)["keypoints"].array[0, :, :2]
    assert after.tolist() == moved[[0, 2, 1] if swapped else [0, 1, 2]].tolist()


def test_objects_that_leave_the_image_are_dropped_from_all_fields() -> None:
    sample = street((2, 2), (30, 20), (50, 30)).apply(Crop(8, 10, 30, 41))
    assert sample["classes"].array.tolist() == [1, 2]
    assert sample["boxes"].array.tolist() == [[20, 12, 28, 20], [40, 22, 41, 30]]
    assert [sample[name].count for name in sample] == [2] * 6
    assert sample.apply(Crop(0, 0, 5, 5))["keypoints"].array.shape == (0, 3, 3)
    assert sample.apply(Pad(9, 9))["boxes"].count == 0


def test_objects_are_packed_and_read_back() -> None:
    before = street((2, 2), (30, 20))
    after = pages.decode(bytearray(b"".join(pages.encode(before))))
    assert all(np.array_equal(after[name].array, before[name].array) for name in before)
    assert np.array_equal(after["instances"].masks(after.size), before["bitmaps"].array)
    assert after.apply(Flip()).fields["keypoints"].array.tolist() == before.apply(Flip())["keypoints"].array.tolist()


def test_objects_of_a_batch_are_lists() -> None:
    targets = collate([street((2, 2)), street()]).targets
    assert [tuple(boxes.shape) for boxes in targets["boxes"]] == [(1, 4), (0, 4)]
    assert [tuple(masks.shape) for masks in targets["bitmaps"]] == [(1, 40, 60), (0, 40, 60)]
    assert [tuple(polygons["points"].shape) for polygons in targets["instances"]] == [(4, 2), (0, 2)]


# ---------------------------------------------------------------- small objects, long images


def test_small_objects_are_left_out_and_empty_samples_rejected() -> None:
    sample = street((2, 2), (30, 20), (55, 30)).apply(Crop(0, 0, 40, 57))
    wide = FilterAnnotations((2, 2))(sample, RNG)
    assert wide is not None
    assert wide["classes"].array.tolist() == [0, 1]
    assert [wide[name].count for name in wide] == [2] * 6
    assert FilterAnnotations((0, 0), min_gt_mask_area=65)(street((2, 2)), RNG) is None
    assert FilterAnnotations((0, 0), min_gt_mask_area=64)(street((2, 2)), RNG) is not None
    assert FilterAnnotations((9, 9), reject_empty=False)(street((2, 2)), RNG) is not None
    assert FilterAnnotations(min_keypoints=4)(street((2, 2)), RNG) is None
    crowd = street((2, 2))
    crowd["crowd"].array[0] = True
    assert FilterAnnotations()(crowd, RNG) is None


def test_boxes_are_put_around_the_pixels_of_masks() -> None:
    turned = street((20, 10), (40, 20)).apply(Warp(about_center(_turn(0.7), (40, 60)), (40, 60)))
    loose = turned["boxes"].array
    tight = FilterAnnotations(recompute_boxes=True)(turned, RNG)
    assert tight is not None
    masks = turned["instances"].masks((40, 60))
    for number, box in enumerate(tight["boxes"].array.tolist()):
        rows, columns = np.nonzero(masks[..., number])
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert (tight["boxes"].array[:, :2] >= np.floor(loose[:, :2])).all()


@pytest.mark.parametrize(("size", "goal"), [((40, 60), (40, 60)), ((100, 20), (40, 20)), ((20, 100), (20, 30))])
def test_long_images_are_cropped_around_their_objects(size: tuple[int, int], goal: tuple[int, int]) -> None:
    crop, places = AspectCrop(0.5, 1.5), set()
    for seed in range(20):
        (x, y), rng = (40 if size[1] > 60 else 3, 50 if size[0] > 60 else 3), np.random.default_rng(seed)
        cut = crop(street((x, y), (x + 8, y + 4), size=size), rng)
        assert cut.size == goal
        assert cut["boxes"].array[0].tolist()[2:] == (cut["boxes"].array[0, :2] + 8).tolist()
        assert cut["boxes"].count == 2
        places.add(tuple(cut["boxes"].array[0, :2].tolist()))
        far = crop(street((x, y - 48 if size[0] > 60 else y), (x, y + 40 if size[0] > 60 else y), size=size), rng)
        assert far["boxes"].count >= 1
        assert crop(street(size=size), rng).size == goal
    assert (len(places) > 5) == (goal != size)


# ---------------------------------------------------------------- data sets of masks


def test_values_of_a_mask_are_objects(tmp_path: Path) -> None:
    mask = np.zeros((12, 16), np.uint8)
    mask[2:5, 3:9], mask[4:8, 5:7], mask[11, 15] = 7, 2, 9
    mask[6, 5] = 0
    image.write(tmp_path / "images/a.jpg", np.zeros((12, 16, 3), np.uint8))
    image.write_mask(tmp_path / "masks/a_mask.png", mask)
    arguments: Any = {"mask_suffix": "_mask.png", "data_root": tmp_path, "category": "cell"}
    dataset = NumberedMaskDataset("images", "masks", instances="polygons", background=None, **arguments)
    sample = dataset[0]
    assert dataset.classes == ("cell",)
    assert sample["boxes"].array.tolist() == [[5, 4, 7, 8], [3, 2, 9, 5], [15, 11, 16, 12]]
    drawn = sample["instances"].masks(sample.size)
    assert [np.array_equal(drawn[..., n] > 0, mask == value) for n, value in enumerate((2, 7, 9))] == [True] * 3
    assert np.array_equal(NumberedMaskDataset("images", "masks", **arguments)[0]["seg"].array, mask > 0)
    image.write(tmp_path / "masks/a_mask.png", np.zeros((12, 16, 3), np.uint8) + np.uint8([1, 2, 3]))
    with pytest.raises(DataError, match=r"this one has colours"):
        dataset[0]
    (tmp_path / "masks/a_mask.png").unlink()
    with pytest.raises(DataError):
        NumberedMaskDataset("images", "masks", **arguments)


def test_objects_of_cityscapes(tmp_path: Path) -> None:
    (arguments,) = CityscapesDataset.conformance(tmp_path)
    things = {"classes": ["car", "person"]}
    dataset = CityscapesDataset(**arguments, instances="masks", metainfo=things)
    mask_path = dataset.files[0][2]
    assert mask_path is not None
    size = CityscapesDataset(**arguments)[0].size
    ids = np.zeros(size, np.uint16)
    ids[:2], ids[2:4], ids[4, :3], ids[4, 3:5], ids[5, 0] = 7, 26, 26001, 24000, 27003
    cv2.imwrite(mask_path.replace("labelTrainIds", "instanceIds"), ids)
    sample = dataset[0]
    assert sample["classes"].array.tolist() == [0, 1, 0]
    assert sample["crowd"].array.tolist() == [True, False, False]
    assert sample["instances"].array.sum((0, 1)).tolist() == [2 * size[1], 2, 3]
    with pytest.raises(DataError, match=r"instanceIds\.png"):
        dataset[1]


@pytest.mark.skipif(not (SHARED / "penn_fudan").is_dir(), reason="the Penn-Fudan files are not here")
def test_the_pedestrians_of_penn_fudan() -> None:
    dataset = PennFudanDataset(
        SHARED / "penn_fudan", "images", "instance_masks", ".png", instances="polygons", background=None
    )
    assert (len(dataset), dataset.classes) == (170, ("pedestrian",))
    sample = dataset[0]
    raw = image.read_mask(SHARED / "penn_fudan/instance_masks/FudanPed00001.png")
    assert sample["boxes"].array.tolist() == [[159, 181, 302, 431], [419, 170, 535, 486]]  # its text file counts from 1
    assert [(sample["instances"].masks(sample.size)[..., n] == (raw == n + 1)).all() for n in range(2)] == [True] * 2
