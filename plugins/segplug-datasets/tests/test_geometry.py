"""Every geometric transform moves the image and all kinds of fields together; plans of them are consistent."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest

from segkernel.geometry import Raster
from segkernel.sample import DepthMap, Geometry, LabelMap, Sample, WeightMap, collate
from segplug_datasets.fields import Boxes, EdgeMap, InstanceMasks, Keypoints
from segplug_datasets.geometry import Crop, Flip, Pad, Resize, Warp

TURN = np.array([[0.96, -0.28, 20.0], [0.28, 0.96, -6.0], [0.0, 0.0, 1.0]])
GEOMETRIES = {
    "resize": Resize((120, 100)),
    "shrink": Resize((45, 60)),
    "crop": Crop(5, 10, 70, 80),
    "horizontal": Flip("horizontal"),
    "vertical": Flip("vertical"),
    "diagonal": Flip("diagonal"),
    "pad": Pad(3, 5, 7, 11),
    "warp": Warp(TURN, (110, 130)),
}
RASTERS = (LabelMap, WeightMap, EdgeMap, DepthMap)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_raster_moves_with_the_image(sample: Sample, name: str) -> None:
    sample.apply(GEOMETRIES[name])
    seen = sample.image[..., 0] > 127
    for field in ("seg", "weight", "edge", "depth"):
        moved = sample[field].array
        assert moved.shape == sample.size == GEOMETRIES[name].size((90, 120))
        # Only pixels on the border of the rectangle may differ: labels are not interpolated.
        assert np.count_nonzero(((moved > 0.5) & (moved < 2)) != seen) <= 0.1 * seen.sum()
    assert np.array_equal(sample["instances"].array[..., 0], sample["edge"].array)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_points_and_boxes_move_with_the_image(sample: Sample, name: str) -> None:
    sample.apply(GEOMETRIES[name])
    rows, columns = np.nonzero(sample.image[..., 0] > 127)
    x, y, visible = sample["points"].array[0, 0]
    assert (x, y) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5), abs=0.6)
    assert visible == 2
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert sample["boxes"].array[0] == pytest.approx(np.array(seen), abs=1.6)


def test_what_a_warp_uncovers_is_filled_by_kind(sample: Sample) -> None:
    away = np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]])
    sample.apply(Warp(away, (90, 120), fill=(1, 2, 3)))
    assert sample.image[0, 0].tolist() == [1, 2, 3]
    assert (sample["seg"].array == 255).all()
    assert not sample["weight"].array.any()
    assert not sample["instances"].array.any()


def test_padding_is_filled_by_kind(sample: Sample) -> None:
    sample.apply(Pad(bottom=2, fill=(9, 8, 7)))
    assert sample.image[-1, -1].tolist() == [9, 8, 7]
    assert sample["seg"].array[-1, -1] == 255
    assert sample["depth"].array[-1, -1] == 0


def test_a_keypoint_that_leaves_the_image_becomes_invisible(sample: Sample) -> None:
    sample.apply(Crop(0, 0, 20, 20))
    assert sample["points"].array[0, 0, 2] == 0


def test_a_box_is_cut_at_the_border(sample: Sample) -> None:
    sample.apply(Crop(35, 50, 40, 40))
    assert sample["boxes"].array[0].tolist() == [0, 0, 20, 15]


def test_a_quarter_turn_is_exact() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    turn = np.array([[0.0, -1, 3], [1, 0, 0], [0, 0, 1]])
    assert np.array_equal(Sample(image=image).apply(Warp(turn, (4, 3))).image, np.rot90(image, -1))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_images_of_any_number_of_channels(geometry: Resize, channels: int) -> None:
    ramp = np.arange(90)[:, None, None] + np.arange(120)[None, :, None] + np.arange(channels)
    image = ramp.astype(np.uint8)
    moved = Sample(image=image).apply(geometry).image
    alone = Sample(image=image[..., -1:]).apply(geometry).image
    assert moved.shape == (*geometry.size((90, 120)), channels)
    # OpenCV rounds differently for different numbers of channels.
    assert np.abs(moved[..., -1:].astype(int) - alone).max() <= 8
    assert np.abs(moved[..., -1:].astype(int) - alone).mean() < 0.2


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_any_number_of_objects(geometry: Resize, count: int) -> None:
    fields = {
        "masks": InstanceMasks(np.ones((90, 120, count), np.uint8)),
        "boxes": Boxes(np.tile(np.float32([0, 0, 120, 90]), (count, 1))),
        "points": Keypoints(np.zeros((count, 17, 3), np.float32)),
    }
    moved = Sample(image=np.zeros((90, 120, 3), np.uint8), fields=fields).apply(geometry)
    assert moved["masks"].array.shape == (*moved.size, count)
    assert len(moved["boxes"].array) == len(moved["points"].array) == count


@pytest.mark.parametrize("dtype", ["uint8", "int64", "int32", "uint16", "bool", "float32", "float64"])
@pytest.mark.parametrize("kind", RASTERS)
def test_raster_fields_keep_their_dtype(kind: type[LabelMap], dtype: str) -> None:
    values = np.zeros((90, 120), dtype)
    values[30:50, 40:70] = 1
    for geometry in GEOMETRIES.values():
        moved = kind(values).apply(geometry, (90, 120))
        assert moved.array.dtype == dtype
        assert moved.array.any()


def test_large_labels_survive_a_resize() -> None:
    labels = np.array([[0, 70_000], [2**40, 3]])
    resized = LabelMap(labels).apply(Resize((4, 4)), (2, 2)).array
    assert set(resized.ravel().tolist()) == {0, 70_000, 2**40, 3}


def test_geometry_in_turn_equals_its_product() -> None:
    points = Keypoints(np.array([[[12.0, 34.0, 1.0]]]))
    steps = [Resize((180, 60)), Flip("diagonal"), Pad(2, 3, 4, 5), Crop(1, 1, 100, 50)]
    matrix, size = np.eye(3), (90, 120)
    for step in steps:
        points, matrix, size = points.apply(step, size), step.matrix(size) @ matrix, step.size(size)
    assert points.array[0, 0, :2] == pytest.approx((matrix @ [12, 34, 1])[:2])


def in_turn(sample: Sample, steps: Sequence[Geometry]) -> Sample:
    """Apply changes, looking after each so that nothing is left planned."""
    for step in steps:
        sample.apply(step).carry_out()
    return sample


PLANS = {
    "flips before the crop": (Resize((201, 307)), Flip("horizontal"), Flip("vertical"), Crop(20, 10, 64, 80)),
    "diagonal before the crop": (Flip("diagonal"), Crop(20, 10, 64, 80)),
    "flip and pad after": (Resize((91, 122)), Crop(1, 2, 70, 80), Flip("diagonal"), Pad(1, 2, 3, 4, 7)),
    "warp between": (Resize((100, 130)), Warp(TURN, (110, 130), 9), Crop(9, 8, 50, 70), Flip()),
}


@pytest.mark.parametrize("steps", PLANS.values(), ids=PLANS)
def test_a_plan_equals_its_steps_in_turn(sample: Sample, steps: Sequence[Geometry]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    sample.image, sample["seg"] = picture, LabelMap(picture[..., 0].copy())
    expected = in_turn(copy.copy(sample), steps)
    for step in steps:
        sample.apply(step)
    assert (sample.size, sample.moved) == (expected.size, expected.moved)
    assert np.array_equal(sample.image, expected.image)
    for name, value in expected.fields.items():
        assert np.allclose(sample[name].array, value.array, atol=1e-4), name
    assert np.array_equal(sample["seg"].array, expected["seg"].array)


def test_a_crop_goes_before_the_flips_planned_so_far() -> None:
    plan = Raster(np.zeros((90, 120, 3), np.uint8)).then(Pad(1, 1)).then(Flip("diagonal")).then(Crop(20, 10, 64, 80))
    assert plan.steps == (Pad(1, 1), Crop(7, 31, 64, 80), Flip("diagonal"))


def test_collate_keeps_boxes_and_instances_as_lists(sample: Sample) -> None:
    targets = collate([sample, sample]).targets
    assert [len(boxes) for boxes in targets["boxes"]] == [2, 2]
    assert [tuple(masks.shape) for masks in targets["instances"]] == [(2, 90, 120)] * 2
