"""CityscapesMetric equals the official evaluation and values computed by hand."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from segkernel.errors import DataError, UsageError
from segkernel.sample import Prediction, Targets
from segplug_datasets import image
from segplug_datasets.cityscapes import LABELS
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.cityscapes import CityscapesMetric
from segplug_datasets.metrics.cityscapes_labels import CATEGORIES, IDS, INSTANCE_SIZES

GOLDEN = json.loads((Path(__file__).parent / "data/cityscapes_metric.json").read_text())


def street(state: np.random.RandomState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return prediction, truth (train ids) and instance ids of an image, as the reference saw them."""
    truth = np.kron(state.randint(0, 19, (8, 16)), np.ones((32, 32), int))
    predicted = np.where(state.uniform(size=truth.shape) < 0.7, truth, state.randint(0, 19, truth.shape))
    ids = np.array(list(IDS.values()))[truth]
    truth[:, :20] = 255
    ids[:, :20] = 0
    number = np.kron(np.arange(128).reshape(8, 16), np.ones((32, 32), int))
    return predicted.astype(np.uint8), truth.astype(np.uint8), np.where(ids >= 24, ids * 1000 + number, ids)


def fed(folder: Path) -> CityscapesMetric:
    metric, state = CityscapesMetric(), np.random.RandomState(2025)
    for number in range(2):
        predicted, truth, instances = street(state)
        path = folder / f"{number}_gtFine_instanceIds.png"
        image.write_mask(path, instances)
        meta = {"mask_path": str(folder / f"{number}_gtFine_labelTrainIds.png")}
        metric.update(Prediction({"seg": torch.from_numpy(predicted)}), Targets({"seg": torch.from_numpy(truth)}, meta))
    return metric


def test_equals_the_official_evaluation(tmp_path: Path) -> None:
    metrics = fed(tmp_path).compute()
    (expected,) = GOLDEN["result"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_classes_and_objects_by_hand() -> None:
    metric = CityscapesMetric()
    car, person, road = (list(IDS).index(name) for name in ("car", "person", "road"))
    truth = np.array([[car, car, car, car, person, person, road, 255]], np.uint8)
    predicted = np.array([[car, car, car, road, person, car, road, car]], np.uint8)
    instances = np.array([[26001, 26001, 26002, 26002, 24001, 24001, 7, 0]])
    metric.update(
        Prediction({"seg": torch.from_numpy(predicted)}),
        Targets({"seg": torch.from_numpy(truth), "instances": torch.from_numpy(instances)}),
    )
    metrics = metric.compute()
    assert metrics["IoU.car"] == pytest.approx(3 / 5)  # the car on what is ignored does not count
    size = INSTANCE_SIZES["car"]
    right, missed = 2 * size / 2 + 1 * size / 2, size / 2
    assert metrics["iIoU.car"] == pytest.approx(right / (right + missed + 1))  # wrong pixels are not weighed
    assert metrics["IoU.vehicle"] == pytest.approx(3 / 5)
    assert metrics["averageScoreClasses"] == pytest.approx(np.mean([3 / 5, 1 / 2, 1 / 2]))
    assert math.isnan(metrics["IoU.sky"])
    assert math.isnan(metrics["iIoU.bus"])


def test_without_instance_files_there_is_no_iiou() -> None:
    metric = CityscapesMetric()
    metric.update(np.full((2, 2), 13, np.uint8), np.full((2, 2), 13, np.uint8))
    metrics = metric.compute()
    assert metrics["averageScoreClasses"] == 1
    assert math.isnan(metrics["averageScoreInstClasses"])
    assert metric.table().splitlines()[0].split() == ["class", "IoU", "iIoU"]


def test_parts_merged_equal_the_whole(tmp_path: Path) -> None:
    metric = fed(tmp_path)
    whole, part = copy.deepcopy(metric), CityscapesMetric()
    part.merge(metric)
    part.merge(CityscapesMetric())
    assert part.compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_writes_label_ids(tmp_path: Path) -> None:
    metric = CityscapesMetric(output_dir=tmp_path, format_only=True)
    labels = torch.arange(19, dtype=torch.uint8)[None]
    metric.update(Prediction({"seg": labels}, {"name": "frankfurt/frankfurt_000000_000294"}), Targets())
    written = image.read_mask(tmp_path / "frankfurt_000000_000294.png")
    assert written.tolist() == [list(IDS.values())]
    assert metric.compute() == {}


def test_an_instance_file_of_another_size_is_refused(tmp_path: Path) -> None:
    image.write_mask(tmp_path / "a_instanceIds.png", np.zeros((3, 3), np.uint16))
    target = Targets({"seg": torch.zeros(2, 2)}, {"mask_path": str(tmp_path / "a_labelTrainIds.png")})
    with pytest.raises(DataError, match=r"\(3, 3\).*\(2, 2\)"):
        CityscapesMetric().update(Prediction({"seg": torch.zeros(2, 2)}), target)


def test_other_classes_are_refused() -> None:
    metric = CityscapesMetric()
    metric.labels = LabelSpec(("road", "car"))
    with pytest.raises(UsageError, match="19 classes"):
        metric.update(np.zeros((2, 2), int), np.zeros((2, 2), int))
    with pytest.raises(UsageError, match="output_dir"):
        CityscapesMetric(format_only=True)


def test_the_tables_agree_with_the_data_set() -> None:
    assert tuple(IDS) == LABELS.classes
    assert [name for members in CATEGORIES.values() for name in members] == list(IDS)
