"""COCO's numbers: streaming, merged, per class."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel.errors import DataError, UsageError
from segkernel.sample import Prediction, Targets
from segplug_instances.coco_json import results_of, run_lengths
from segplug_instances.metrics.coco import COCOMetric
from segplug_instances.metrics.matches import Matches
from segplug_instances.metrics.proposals import ProposalRecall

CLASSES = ["person", "car", "dog"]


def objects(boxes: list[list[float]], size: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes):
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return masks


def image(seed: int, size: tuple[int, int] = (60, 80)) -> tuple[Prediction, Targets]:
    """Objects of two classes, and detections some of which are right."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 30, (4, 2))
    boxes = np.concatenate([corner, corner + rng.integers(5, 30, (4, 2))], 1).astype(np.float32)
    found = np.concatenate([boxes + rng.integers(-2, 3, boxes.shape), boxes[:2] + 20])
    points = np.concatenate([rng.uniform(0, 60, (4, 17, 2)), np.full((4, 17, 1), 2.0)], 2).astype(np.float32)
    field = {
        "boxes": torch.from_numpy(found),
        "scores": torch.from_numpy(rng.permutation(6) / 10 + 0.1).float(),
        "labels": torch.from_numpy(rng.integers(0, 2, 6)),
        "masks": objects(found.clip(0).tolist(), size),
        "keypoints": torch.from_numpy(np.concatenate([points + 1, points[:2]])),
    }
    truth = {
        "boxes": torch.from_numpy(boxes),
        "classes": torch.from_numpy(rng.integers(0, 2, 4)),
        "crowd": torch.tensor([False, False, False, seed % 2 == 0]),
        "instances": objects(boxes.tolist(), size).to(torch.uint8),
        "keypoints": torch.from_numpy(points),
    }
    return Prediction({"seg": field}, {"index": seed, "image_id": 100 + seed, "name": str(seed)}), Targets(truth)


def measured(numbers: Any, **arguments: Any) -> COCOMetric:
    metric = COCOMetric(classes=CLASSES, **arguments)
    for number in numbers:
        metric.update(*image(number))
    return metric


def test_two_ranks_give_what_one_gives_and_a_class_without_objects_is_nan() -> None:
    whole, first = measured(range(6)), measured([4, 0, 2])
    first.merge(measured([5, 3, 1]))
    one, two = whole.compute(), first.compute()
    assert list(one) == list(two)
    assert np.array_equal(list(one.values()), list(two.values()), equal_nan=True)
    assert len([name for name in one if "." not in name]) == 12 + 12 + 10
    assert 0 < one["bbox_AP"] < one["bbox_AP50"] <= 100
    assert 0 < one["segm_AP"] < 100
    assert one["keypoints_AP"] > 0
    assert math.isnan(one["bbox_AP.dog"])
    assert math.isnan(one["segm_AP_large"])
    assert one["bbox_AP"] == pytest.approx((one["bbox_AP.person"] + one["bbox_AP.car"]) / 2)
    assert whole.table().splitlines()[3].split()[:2] == ["dog", "-"]


def test_the_annotated_area_decides_what_is_small() -> None:
    prediction, target = image(1)
    target["area"] = torch.full((4,), 1e5)
    metric = COCOMetric(kinds=["bbox"], classes=CLASSES)
    metric.update(prediction, target)
    found = metric.compute()
    assert math.isnan(found["bbox_AP_small"])
    assert found["bbox_AP_large"] >= found["bbox_AP"] > 0


def test_results_are_written_as_coco_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "out" / "results.json"
    metric = measured([1, 0], results_file=file, category_ids=[1, 3, 18], format_only=True)
    assert metric.compute() == {}
    entries = json.loads(file.read_text())
    assert [(entry["category_id"], entry["image_id"]) for entry in entries] == sorted(
        (entry["category_id"], entry["image_id"]) for entry in entries
    )
    assert {entry["category_id"] for entry in entries} <= {1, 3}
    assert {entry["image_id"] for entry in entries} == {
        100,
        101,
    }
    prediction, _ = image(1)
    score = prediction["seg"]["scores"][0].item()
    own = next(entry for entry in entries if (entry["image_id"], entry["score"]) == (101, score))
    left, top, right, bottom = prediction["seg"]["boxes"][0].tolist()
    assert own["bbox"] == [left, top, right - left, bottom - top]
    assert own["keypoints"][:3] == [*(prediction["seg"]["keypoints"][0, 0, :2] - 0.5).tolist(), 1]
    assert own["segmentation"] == run_lengths(prediction["seg"]["masks"].numpy()[:1], (60, 80))[0]


def test_a_run_has_a_results_file_for_each_split(tmp_path: Path) -> None:
    for split in ("val", "test"):
        metric = measured([0], results_file="out/results.json", format_only=True)
        metric.work_dir, metric.split = tmp_path, split
        metric.compute()
        assert str(tmp_path / "out" / f"results_{split}.json") in metric.table()
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["results_test.json", "results_val.json"]


@pytest.mark.parametrize(("meta", "ids"), [({}, (1, 2, 3)), ({"category_ids": (7, 18, 90)}, (7, 18, 90))])
def test_results_have_the_category_ids_of_the_data_set(tmp_path: Path, meta: dict[str, Any], ids: Any) -> None:
    metric = COCOMetric(classes=CLASSES, results_file=tmp_path / "results.json", format_only=True)
    prediction, target = image(1)
    prediction.meta |= meta
    metric.update(prediction, target)
    metric.compute()
    found = [entry["category_id"] for entry in json.loads((tmp_path / "results.json").read_text())]
    assert found == sorted(ids[label] for label in prediction["seg"]["labels"])


def test_polygons_are_rasterised_as_by_coco_and_objects_without_one_are_empty() -> None:
    square = np.array([[2, 1], [6, 1], [6, 5], [2, 5]], np.float32)
    polygons = {
        "points": np.concatenate([square, square + 10]),
        "parts": np.array([0, 4, 8]),
        "objects": np.array([0, 0]),
    }
    encoded = run_lengths(polygons, (20, 20), 2)
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 1:5, 2:6] = masks[0, 11:15, 12:16] = True
    assert encoded == run_lengths(masks, (20, 20))


def test_messages_name_what_is_missing() -> None:
    prediction, target = image(0)
    with pytest.raises(DataError, match="'boxes' and 'classes'"):
        measured([]).update(prediction, Targets({"seg": torch.zeros(2, 2)}))
    del target["instances"]
    with pytest.raises(UsageError, match="segm needs 'instances', which the data set does not have"):
        measured([], kinds=["segm"]).update(prediction, target)
    with pytest.raises(UsageError, match="17 keypoints, but 2 sigmas"):
        measured([], sigmas=[0.1, 0.1]).update(prediction, target)
    with pytest.raises(UsageError, match="results_file"):
        COCOMetric(format_only=True)


CASES = ("class_agnostic", "duplicate_scores", "empty_images", "img_ids_subset", "main", "max_dets", "no_detections",
         "one_category_missing")  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_pycocotools(golden: Any, case: str) -> None:
    facts, _ = golden.load(f"coco/eval_{case}")
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in facts["gt"]["images"]}
    for annotation in facts["gt"]["annotations"]:
        annotation["segmentation"] = as_run_lengths(annotation["segmentation"], sizes[annotation["image_id"]])
    for kind, known in facts["results"].items():
        matches = Matches(kind, class_agnostic=facts["params"].get("useCats") == 0)
        for number in facts["params"].get("imgIds") or sizes:
            parts = (facts["gt"]["annotations"], facts["dt"][kind])
            matches.add(number, *([entry for entry in part if entry["image_id"] == number] for part in parts))
        categories = [int(category) for category in known["catIds"]]
        stats, names = matches.stats(categories), facts["names"]["keypoints" if kind == "keypoints" else "bbox"]
        assert [stats[name] for name in names] == pytest.approx(known["stats"], abs=1e-9)
        each = matches.per_category(categories)
        for category, values in known["per_category"].items():
            mine = {"AR": each[int(float(category))].get("AR@100"), **each[int(float(category))]}
            assert {key: mine[key] for key in values} == pytest.approx(values, abs=1e-9)


def as_run_lengths(segmentation: Any, size: tuple[int, int]) -> Any:
    from pycocotools import mask

    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, *size))
    return mask.frPyObjects(segmentation, *size) if isinstance(segmentation["counts"], list) else segmentation


def test_result_files_are_detectrons(golden: Any) -> None:
    params, inputs, _ = golden.case(*golden.load("parts/d1_coco_json"), "files")
    ids, edge, centre = params["category_ids"], np.array([0, 0, 1, 1]), np.array([0.5, 0.5, 0])
    points = iter(inputs["keypoints"])
    by_image: dict[int, list[Any]] = {image: [] for image in params["image_ids"]}
    for label, boxes in enumerate(params["boxes"][1:]):
        for image_id, rows in zip(params["image_ids"], boxes):
            of_class = [next(points) if label == 0 else np.zeros((4, 17), np.float32) for _ in rows]
            by_image[image_id] += [(row, label, found) for row, found in zip(rows, of_class)]
    entries = []
    for image_id, rows in by_image.items():
        boxes = np.array([row[:4] for row, _, _ in rows], np.float64).reshape(-1, 4) + edge
        found = {"boxes": boxes, "scores": np.array([row[4] for row, _, _ in rows])}
        found |= {"labels": np.array([label for _, label, _ in rows])}
        found["keypoints"] = np.array([maps[:3].T + centre for _, _, maps in rows]).reshape(-1, 17, 3)
        entries += results_of(found, image_id, ids)
    ordered = sorted(entries, key=lambda entry: (entry["category_id"], entry["image_id"]))
    for own, known in zip(ordered, params["bbox_results"], strict=True):
        assert (own["image_id"], own["category_id"]) == (known["image_id"], known["category_id"])
        assert [*own["bbox"], own["score"]] == pytest.approx([*known["bbox"], known["score"]], abs=1e-4)
    persons = [entry for entry in ordered if entry["category_id"] == ids[0]]
    for own, known in zip(persons, params["keypoint_results"], strict=True):
        assert own["image_id"] == known["image_id"]
        assert own["keypoints"] == pytest.approx(known["keypoints"], abs=1e-4)


def test_recall_of_proposals_is_detectrons(golden: Any) -> None:
    params, _, _ = golden.case(*golden.load("parts/d1_coco_json"), "box_proposals")
    whole, first = ProposalRecall((10, 100)), ProposalRecall((10, 100))
    for number, entry in enumerate(params["entries"]):
        boxes = torch.tensor(entry["boxes"], dtype=torch.float64) + torch.tensor([0, 0, 1, 1])
        true = torch.tensor(entry["gt_classes"]) > 0
        truth = {"boxes": boxes[true], "crowd": torch.tensor(entry["crowd"])[true].bool()}
        truth["area"] = torch.tensor(entry["seg_areas"])[true]
        for metric in (whole, ProposalRecall((10, 100)) if number % 2 else first):
            metric.update(Prediction({"seg": {"boxes": boxes[~true]}}), Targets(truth))
            if metric is not whole and metric is not first:
                first.merge(metric)
    for name, known in params["results"].items():
        area, _, limit = name.partition("@")
        found = whole.compute()[f"AR{'' if area == 'all' else f'_{area}'}@{limit}"]
        assert found == pytest.approx(math.nan if known["ar"] is None else 100 * known["ar"], abs=1e-9, nan_ok=True)
    assert first.compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_run_lengths_are_cocos(golden: Any) -> None:
    facts, arrays = golden.load("coco/rle")
    for case in facts["cases"]:
        if case["name"].startswith("mask_"):
            mask = arrays[f"{case['name']}/mask"]
            assert run_lengths(mask[None], mask.shape)[0]["counts"] == case["params"]["counts_string"], case["name"]
        elif case["name"] == "polygons":
            for item in case["params"]["items"]:
                rings = [np.array(ring).reshape(-1, 2) for ring in item["polygons"]]
                ends = np.cumsum([0, *map(len, rings)])
                polygons = {"points": np.concatenate(rings), "parts": ends, "objects": np.zeros(len(rings), int)}
                assert run_lengths(polygons, case["params"]["size"], 1)[0]["counts"] == item["counts"]
