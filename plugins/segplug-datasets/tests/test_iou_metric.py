"""IoUMetric equals the reference, a few lines of numpy, and the merge of its parts."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segkernel.errors import DataError, UsageError
from segkernel.interfaces.data import Metric
from segkernel.sample import Prediction, Targets
from segplug_datasets import image
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.metrics.counts import _on_device, confusion
from segplug_datasets.metrics.iou import IoUMetric

CASES = json.loads((Path(__file__).parent / "data/iou_metric.json").read_text())


def images(case: dict[str, Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield predictions and labels as the reference saw them."""
    state, count, shape, missing = (
        np.random.RandomState(2024),
        case["num_classes"],
        case["shape"],
        case["missing_class"],
    )
    for _ in range(case["images"]):
        labels = state.randint(0, count, shape)
        predicted = np.where(state.uniform(size=shape) < 0.6, labels, state.randint(0, count, shape))
        if missing is not None:
            labels[labels == missing] = predicted[predicted == missing] = 0
        labels[:, :5] = 255
        yield predicted, labels


def names(count: int) -> list[str]:
    return [f"c{index}" for index in range(count)]


@pytest.mark.parametrize("kind", ["array", "tensor", "uint8", "prediction"])
@pytest.mark.parametrize("case", CASES, ids=[str(index) for index in range(len(CASES))])
def test_equals_the_reference(case: dict[str, Any], kind: str) -> None:
    metric = IoUMetric(classes=names(case["num_classes"]), **case["kwargs"])
    for predicted, labels in images(case):
        if kind == "uint8":
            metric.update(predicted.astype(np.uint8), labels.astype(np.uint8))
        elif kind == "tensor":
            metric.update(torch.from_numpy(predicted), torch.from_numpy(labels.astype(np.uint8)))
        elif kind == "prediction":
            metric.update(Prediction({"seg": torch.from_numpy(predicted)}), Targets({"seg": torch.from_numpy(labels)}))
        else:
            metric.update(predicted, labels)
    metrics = metric.compute()
    for name, value in case["summary"].items():
        assert metrics[name] == pytest.approx(value, abs=0.0051)
    for column, values in case["per_class"].items():
        found = [metrics[f"{column}.c{index}"] for index in range(case["num_classes"])]
        expected = [math.nan if value is None else 100 * value for value in values]
        assert found == pytest.approx(expected, abs=1e-3, nan_ok=True)


def test_frequency_weighted_iou() -> None:
    metric = IoUMetric(classes=["a", "b", "never"])
    metric.update(np.array([[0, 0, 0, 1]]), np.array([[0, 0, 1, 1]]))
    metrics = metric.compute()
    assert metrics["fwIoU"] == pytest.approx(100 * (0.5 * 2 / 3 + 0.5 * 1 / 2))
    assert metrics["IoU.a"] == pytest.approx(200 / 3)


def test_an_absent_class_is_nan_and_left_out() -> None:
    metric = IoUMetric(classes=["a", "b", "never"])
    metric.update(np.array([[0, 1]]), np.array([[0, 1]]))
    metrics = metric.compute()
    assert math.isnan(metrics["IoU.never"])
    assert metrics["mIoU"] == 100


def test_a_class_predicted_but_absent_counts_as_wrong() -> None:
    metric = IoUMetric(classes=["a", "b"])
    metric.update(np.array([[0, 1]]), np.array([[0, 0]]))
    assert metric.compute()["IoU.b"] == 0


def test_ids_above_the_classes_count_as_wrong() -> None:
    metric = IoUMetric(classes=["a", "b"])
    metric.update(np.array([[0, 9, 255]], np.uint8), np.array([[0, 0, 1]], np.uint8))
    metrics = metric.compute()
    assert metrics["aAcc"] == pytest.approx(100 / 3)
    assert metrics["IoU.a"] == 50


def test_merged_parts_equal_the_whole() -> None:
    case = CASES[0]
    whole, parts = IoUMetric(classes=names(7)), [IoUMetric(classes=names(7)) for _ in range(4)]
    for part, (predicted, labels) in zip(parts, images(case)):
        whole.update(predicted, labels)
        part.update(torch.from_numpy(predicted), torch.from_numpy(labels))
    for part in parts[1:]:  # the last one saw nothing
        parts[0].merge(part)
    assert parts[0].compute() == whole.compute()


def test_a_merge_leaves_the_other_alone() -> None:
    first, second = IoUMetric(classes=["a"]), IoUMetric(classes=["a"])
    second.update(np.zeros((1, 3), int), np.zeros((1, 3), int))
    first.merge(second)
    first.update(np.zeros((1, 5), int), np.zeros((1, 5), int))
    assert second._confusion.sum() == 3


def test_an_empty_metric_has_no_values() -> None:
    assert all(math.isnan(value) for value in IoUMetric(classes=["a", "b"]).compute().values())


def test_copies_and_pickles_are_independent() -> None:
    metric = IoUMetric(["mIoU", "mDice", "mFscore"], classes=["a", "b"])
    copied = copy.deepcopy(metric)
    copied.update(torch.zeros(2, 2), torch.zeros(2, 2))
    assert math.isnan(metric.compute()["mIoU"])
    assert pickle.loads(pickle.dumps(copied)).compute()["mIoU"] == 100
    assert isinstance(metric, Metric)


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match=r"\(2, 3\).*\(3, 2\)"):
        IoUMetric(classes=["a"]).update(np.zeros((2, 3), int), np.zeros((3, 2), int))


def test_the_classes_must_be_known() -> None:
    with pytest.raises(UsageError, match="classes"):
        IoUMetric().update(np.zeros((2, 2), int), np.zeros((2, 2), int))


@pytest.mark.parametrize("wrong", [["mIuO"], []])
def test_unknown_metrics_are_refused(wrong: list[Any]) -> None:
    with pytest.raises(UsageError, match="mIoU, mDice, mFscore"):
        IoUMetric(wrong)


def test_the_table_names_every_class() -> None:
    metric = IoUMetric(["mIoU", "mFscore"], classes=["sky", "a long class name", "never"])
    metric.update(np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 1]]))
    lines = metric.table().splitlines()
    assert lines[0].split() == ["class", "IoU", "Acc", "Fscore", "Precision", "Recall"]
    assert lines[2].split()[:3] == ["sky", "50.00", "100.00"]
    assert lines[4].split() == ["never"] + ["-"] * 5
    assert lines[-1].startswith("aAcc 75.00  mIoU 58.33")
    assert len({len(line) for line in lines[:-1]}) == 1


# ---------------------------------------------------------------- counting


@pytest.mark.parametrize("count", [2, 19, 254, 256, 300])
@pytest.mark.parametrize("ignore", [255, 0, -1])
def test_eight_bits_are_counted_like_any_integers(count: int, ignore: int) -> None:
    rng = np.random.default_rng(count)
    predicted, true = (rng.integers(0, 256, (33, 21), dtype=np.uint8) for _ in range(2))
    expected = np.zeros((count + 2, count + 1), np.int64)
    rows = [count + 1 if t == ignore else min(t, count) for t in true.ravel().tolist()]
    np.add.at(expected, (rows, np.minimum(predicted.ravel().astype(int), count)), 1)
    for kind in (np.uint8, np.int64, np.int16):
        assert (confusion(predicted.astype(kind), true.astype(kind), count, ignore) == expected).all()
    assert (confusion(torch.from_numpy(predicted), torch.from_numpy(true), count, ignore) == expected).all()
    assert (_on_device(torch.from_numpy(predicted), true, count, ignore).numpy() == expected).all()


def test_strided_and_empty_maps_are_counted() -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert confusion(labels[::2, ::2], labels[::2, ::2], 64).sum() == 16
    assert confusion(labels[:0], labels[:0], 3).sum() == 0


# ---------------------------------------------------------------- files and intervals


def named(predicted: Any, true: Any, name: str) -> tuple[Prediction, Targets]:
    meta = {"name": name}
    return Prediction({"seg": torch.as_tensor(predicted)}, meta), Targets({"seg": torch.as_tensor(true)}, meta)


def test_writes_predictions_in_the_numbers_of_the_files(tmp_path: Path) -> None:
    metric = IoUMetric(classes=["a", "b"], output_dir=tmp_path)
    metric.labels = LabelSpec(("a", "b"), offset=1)
    metric.update(*named([[0, 1]], [[0, 1]], "town/one"))
    assert image.read_mask(tmp_path / "town" / "one.png").tolist() == [[1, 2]]
    assert metric.compute()["mIoU"] == 100


def test_format_only_computes_no_metrics(tmp_path: Path) -> None:
    metric = IoUMetric(classes=["a", "b"], output_dir=tmp_path, format_only=True)
    metric.update(Prediction({"seg": torch.tensor([[0, 1]])}, {"name": "one"}), Targets())
    assert image.read_mask(tmp_path / "one.png").tolist() == [[0, 1]]
    assert metric.compute() == {}
    assert str(tmp_path) in metric.table()
    with pytest.raises(UsageError, match="output_dir"):
        IoUMetric(format_only=True)


def test_a_prediction_without_a_name_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name"):
        IoUMetric(classes=["a"], output_dir=tmp_path).update(np.zeros((2, 2), int), np.zeros((2, 2), int))


def sure(order: list[int], **arguments: Any) -> dict[str, float]:
    metric = IoUMetric(classes=["a", "b", "never"], bootstrap=200, **arguments)
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 2, (6, 7)), rng.integers(0, 2, (6, 7))) for _ in range(8)]
    for number in order:
        metric.update(*named(*pairs[number], str(number)))
    return metric.compute()


def test_intervals_contain_the_metric_and_are_independent_of_the_order() -> None:
    metrics = sure(list(range(8)))
    for name in ("aAcc", "mIoU", "IoU.a", "Acc.b"):
        assert metrics[f"{name}.low"] < metrics[name] < metrics[f"{name}.high"]
    assert math.isnan(metrics["IoU.never.low"])
    assert sure(list(range(8))[::-1]) == pytest.approx(metrics, nan_ok=True)
    narrow = sure(list(range(8)), confidence=0.5)
    assert narrow["mIoU.high"] - narrow["mIoU.low"] < metrics["mIoU.high"] - metrics["mIoU.low"]


def test_one_image_has_no_spread() -> None:
    metrics = sure([3])
    assert metrics["mIoU.low"] == pytest.approx(metrics["mIoU"]) == pytest.approx(metrics["mIoU.high"])


@pytest.mark.parametrize("wrong", [{"bootstrap": -1}, {"confidence": 1.0}])
def test_impossible_intervals_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="bootstrap"):
        IoUMetric(**wrong)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_class_that_is_not_evaluated_affects_no_metric(kind: Any) -> None:
    true = np.array([[0, 0, 1, 1], [2, 2, 2, 2]])
    predicted = np.array([[0, 1, 1, 0], [2, 2, 1, 2]])
    metric = IoUMetric(classes=["void", "a", "b"], exclude=["void"])
    metric.update(kind(predicted), kind(true))
    metrics = metric.compute()
    # Of the six pixels that are not void: a is right once, missed once, seen once in place of b.
    assert metrics["IoU.a"] == pytest.approx(100 / 3)
    assert metrics["IoU.b"] == pytest.approx(75)
    assert metrics["mIoU"] == pytest.approx((100 / 3 + 75) / 2)
    assert metrics["aAcc"] == pytest.approx(100 * 4 / 6)
    assert math.isnan(metrics["IoU.void"])
    assert " -" in next(line for line in metric.table().splitlines() if line.startswith("void"))


def test_a_class_to_leave_out_must_be_there() -> None:
    metric = IoUMetric(classes=["void", "road"], exclude=["raod"])
    with pytest.raises(UsageError, match="'raod'; did you mean 'road'"):
        metric.update(np.zeros((2, 2), int), np.zeros((2, 2), int))
