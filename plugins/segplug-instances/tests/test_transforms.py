"""Resizing by the rules of each reference, and proposals added to an image's boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_parts import check, load

from segkernel.errors import UsageError
from segkernel.fields import Field, LabelMap, ObjectField
from segkernel.geometry import Geometry, Size
from segkernel.inference import Preprocessor
from segkernel.sample import Sample, collate
from segplug_instances.boxes import iou
from segplug_instances.conventions import DETECTRON, DETECTRON2, TORCHVISION
from segplug_instances.transforms import DetectionResize, resized

RNG = np.random.default_rng(0)


class Points(ObjectField):
    """Corners (objects, 2, 2) of boxes."""

    def apply(self, geometry: Geometry, size: Size) -> Points:
        return Points(geometry.move(self.array, size))


def prepared(image: np.ndarray, short: int, longest: int, convention: str, **fields: Field) -> Sample:
    return DetectionResize(short, longest, convention)(Sample(fields, {}, image), RNG)  # type: ignore[arg-type]


def test_sizes_of_detectron2_and_torchvision() -> None:
    for row in load("resize")["sizes"].params["rows"]:
        limits = (row["h"], row["w"]), row["short"], row["max"]
        assert list(resized(*limits, DETECTRON2)[0]) == row["d2"], row
        assert list(resized(*limits, TORCHVISION)[0]) == row["tv"], row


def test_sizes_of_detectron() -> None:
    params = load("d1_results")["sizes"].params
    for row in params["rows"]:
        size, factor = resized((row["h"], row["w"]), params["short"], params["max"], DETECTRON)
        assert (list(size), factor) == (row["resized"], row["scale"]), row


def test_pixels_and_boxes_of_torchvision() -> None:
    case = load("resize")["tv_transform"]
    params, samples = case.params, []
    for number, shape in enumerate([(3, 40, 52), (3, 70, 41)]):
        image = np.random.RandomState(181 + number).uniform(0, 1, shape).astype(np.float32).transpose(1, 2, 0)
        corners = Points(case[f"boxes{number}"].numpy().reshape(-1, 2, 2))
        samples.append(prepared(image, params["min_size"], params["max_size"], "torchvision", boxes=corners))
        assert list(samples[-1].size) == params["image_sizes"][number]
        check(torch.from_numpy(samples[-1]["boxes"].array).flatten(1).float(), case[f"out_boxes{number}"])
    preprocess = Preprocessor(params["mean"], params["std"], size_divisor=params["size_divisible"])
    images = preprocess(collate(samples))[0]
    assert list(images.shape) == params["batch_shape"]
    check(images[..., ::2, ::2], case["batch"], 2e-5)  # OpenCV keeps positions as float32


def test_pixels_of_detectron2() -> None:
    case = load("resize")["d2_image"]
    image = np.random.RandomState(185).randint(0, 256, (37, 53, 3)).astype(np.uint8)
    up = prepared(image, 60, 200, "detectron2").image
    assert (up.dtype, list(up.shape[:2])) == (np.uint8, case.params["out_hw"])
    assert np.array_equal(up[::2, ::2], case["up"].numpy())
    assert np.array_equal(prepared(image, 20, 200, "detectron2").image, case["down"].numpy())


@pytest.mark.parametrize("number", [0, 1])
def test_pixels_of_detectron(number: int) -> None:
    case = load("d1_results")["prep"]
    params, rule = case.params, case.params["cases"][number]
    bgr = np.random.RandomState(190).randint(0, 256, (47, 61, 3)).astype(np.uint8)
    corner = Points(np.array([[[0.0, 0.0], [10.0, 20.0]]]))
    sample = prepared(bgr[..., ::-1].copy(), rule["short"], rule["max"], "detectron", boxes=corner)
    means = params["pixel_means"][::-1]
    preprocess = Preprocessor(means, (1, 1, 1), size_divisor=32 if rule["fpn"] else None, channel_order="rgb")
    images = preprocess(collate([sample]))[0].flip(1)
    assert list(images.shape) == rule["blob_shape"]
    np.testing.assert_allclose(sample["boxes"].array[0, 1], np.array([10, 20]) * rule["im_scale"])
    if not rule["fpn"]:
        check(images[..., ::2, ::2], case["data"])


def test_a_short_edge_is_drawn_from_several() -> None:
    transform = DetectionResize([40, 50, 60], None)
    sizes = {transform(Sample({}, {}, np.zeros((20, 30, 3), np.uint8)), RNG).size for _ in range(60)}
    assert sizes == {(40, 60), (50, 75), (60, 90)}
    with pytest.raises(UsageError, match="1 pixel or more"):
        DetectionResize([])


def test_labels_get_the_nearest_pixel() -> None:
    labels = np.arange(6, dtype=np.int64).reshape(2, 3)
    for convention in ("detectron", "detectron2", "torchvision"):
        sample = prepared(np.zeros((2, 3, 3), np.uint8), 4, 100, convention, seg=LabelMap(labels))
        assert np.array_equal(sample["seg"].array, labels.repeat(2, 0).repeat(2, 1))


def test_proposals_of_detectron_are_matched_with_the_boxes() -> None:
    case = load("d1_dataset")["add_proposals"]
    boxes, count = case["boxes"], len(case["boxes"]) - len(case["rois"])
    check(boxes[count:], case["rois"][:, 1:] / case.params["scale"])
    overlaps, owners = iou(boxes, boxes[:count], DETECTRON).max(1)
    check(overlaps, case["max_overlaps"])
    assert torch.where(overlaps > 0, owners, -1).tolist() == case["box_to_gt"].tolist()
