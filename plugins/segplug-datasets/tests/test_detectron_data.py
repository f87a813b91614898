"""A COCO file as Detectron reads it for training: recorded facts about its list of images and boxes ("roidb").

Detectron's boxes end with the last pixel, ours after it; its polygons and keypoints are indices of pixels when they are
flipped, and its keypoints integers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.sample import Sample
from segplug_datasets import image
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.geometry import Flip
from segplug_datasets.samplers import AspectRatioGroups
from segplug_datasets.transforms.objects import AspectCrop, FilterAnnotations

FILE = Path(os.environ.get("SEGKERNEL_PARITY", Path(__file__).parents[4] / "shared/parity"))
FILE = FILE / "instances/parts/d1_dataset.json"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE}, recorded results of Detectron, is not there")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    cases = json.loads(FILE.read_text())["cases"]
    return next(case["params"] for case in cases if case["name"] == "roidb")


@pytest.fixture(scope="module")
def dataset(facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> CocoInstanceDataset:
    folder = tmp_path_factory.mktemp("coco")
    for entry in facts["coco"]["images"]:
        image.write(folder / entry["file_name"], np.zeros((entry["height"], entry["width"], 3), np.uint8))
    (folder / "a.json").write_text(json.dumps(facts["coco"]))
    return CocoInstanceDataset("a.json", data_root=folder, instances="polygons", background=None)


def read(dataset: CocoInstanceDataset, entry: dict[str, Any]) -> Sample:
    """Return the sample of an entry, with the objects that Detectron trains on: boxes of more than one pixel."""
    ids = [dataset._image_ids.index(entry["id"])]
    sample = FilterAnnotations((1, 1), reject_empty=False)(dataset[ids[0]], RNG)
    assert sample is not None
    return sample.apply(Flip("horizontal")) if entry["flipped"] else sample


def test_boxes_classes_and_crowds_of_all_images(facts: dict[str, Any], dataset: CocoInstanceDataset) -> None:
    assert ("__background__", *dataset.classes) == tuple(facts["classes"])
    for entry in facts["entries"]:
        sample, theirs = read(dataset, entry), np.array(entry["boxes"], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(sample["boxes"].array - [0, 0, 1, 1], theirs, atol=1e-4)
        assert (sample["classes"].array + 1).tolist() == entry["classes"]
        assert sample["crowd"].array.tolist() == [bool(crowd) for crowd in entry["crowd"]]
        assert sample["area"].array.tolist() == entry["areas"]


def test_polygons_and_keypoints(facts: dict[str, Any], dataset: CocoInstanceDataset) -> None:
    assert tuple(dataset.keypoint_names) == tuple(facts["keypoint_names"])
    compared = 0
    for entry in (entry for entry in facts["entries"] if "segms" in entry):
        sample, flipped = read(dataset, entry), entry["flipped"]
        for rings, theirs in zip(sample["instances"].polygons(), entry["segms"], strict=True):
            for ring, points in zip(rings, theirs, strict=True) if isinstance(theirs, list) else ():
                np.testing.assert_allclose(ring - [flipped, 0], np.reshape(points, (-1, 2)), atol=1e-4)
                compared += 1
        x, y, visible = np.moveaxis(sample["keypoints"].array.astype(np.float64), 2, 0)
        their_x, their_y, their_visible = np.moveaxis(np.array(entry["keypoints"]).reshape(-1, 3, 17), 1, 0)
        assert (visible == their_visible).all()
        known = visible > 0
        round_x = np.ceil if flipped else np.floor
        assert (round_x(np.round(x - 0.5, 3))[known] == their_x[known]).all()
        assert (np.floor(np.round(y - 0.5, 3))[known] == their_y[known]).all()
    assert compared > 4


def test_images_kept_for_training(facts: dict[str, Any], dataset: CocoInstanceDataset) -> None:
    for name, least in (("kept_for_training", 0), ("kept_for_keypoints", 1)):
        chosen = FilterAnnotations((1, 1), min_keypoints=least)
        kept = [dataset._image_ids[n] for n in range(len(dataset)) if chosen(dataset[n], RNG) is not None]
        assert kept == [image_id for image_id, flipped in facts[name] if not flipped]


def test_aspect_ratios_and_cropping(facts: dict[str, Any], dataset: CocoInstanceDataset) -> None:
    assert dataset.image_sizes is not None
    ratios = dataset.image_sizes[:, 1] / dataset.image_sizes[:, 0]
    assert sorted([*ratios, *ratios]) == facts["ratios"]
    order = AspectRatioGroups(batch_size=3).order(dataset, 0, 0, 3)
    batches = ratios[order].reshape(-1, 3)
    batches = np.sort(batches[batches[:, 0].argsort()], 1)
    assert np.array_equal(batches.ravel(), np.sort(ratios))
    cropping = facts["cropping"]
    crop = AspectCrop(cropping["ASPECT_LO"], cropping["ASPECT_HI"])
    goals = [crop.target((int(height), int(width))) for height, width in dataset.image_sizes]
    needed = [goal != tuple(size) for goal, size in zip(goals, dataset.image_sizes.tolist())]
    assert [*needed, *needed] == cropping["need_crop"]
    np.testing.assert_allclose(np.repeat(np.sort([w / h for h, w in goals]), 2), cropping["ratios"], rtol=0.01)
