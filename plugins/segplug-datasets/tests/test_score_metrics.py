"""Calibration and threshold metrics against plain computations over all pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segkernel.errors import DataError, UsageError
from segkernel.sample import Prediction, Targets
from segplug_datasets.metrics.binary import BinaryMetric
from segplug_datasets.metrics.calibration import CalibrationMetric

CLASSES = ["a", "b", "c"]


def scene(seed: int, classes: int = 3) -> tuple[Prediction, Targets]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((classes, 40, 50), generator=generator)
    odds = (0.4 * logits).softmax(0).flatten(1).T
    truth = torch.multinomial(odds, 1, generator=generator).reshape(40, 50).to(torch.uint8)
    truth[:4] = 255
    scores = logits.softmax(0)
    return Prediction({"seg": scores.argmax(0), "seg_probabilities": scores}), Targets({"seg": truth})


def plain_ece(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[float, float]:
    """Return the expected and the largest gap, one bin at a time."""
    gaps, shares = [], []
    for place in range(bins):
        inside = (confidence > place / bins) & (confidence <= (place + 1) / bins)
        if inside.any():
            gaps.append(abs(confidence[inside].mean() - right[inside].mean()))
            shares.append(inside.mean())
    return float(np.dot(gaps, shares)), max(gaps)


def counted(seeds: range, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (K, pixels) float64 and labels (pixels) of what counts."""
    parts = []
    for seed in seeds:
        prediction, target = scene(seed, classes)
        keep = target["seg"] != 255
        parts.append((prediction["seg_probabilities"][:, keep].double().numpy(), target["seg"][keep].numpy()))
    return np.concatenate([p[0] for p in parts], 1), np.concatenate([p[1] for p in parts])


def test_calibration_equals_bin_by_bin() -> None:
    metric = CalibrationMetric(bins=10, classes=CLASSES)
    for seed in range(3):
        metric.update(*scene(seed))
    metrics, (scores, labels) = metric.compute(), counted(range(3))
    expected, largest = plain_ece(scores.max(0), scores.argmax(0) == labels, 10)
    assert metrics["ECE"] == pytest.approx(100 * expected)
    assert metrics["MCE"] == pytest.approx(100 * largest)
    for index, name in enumerate(CLASSES):
        assert metrics[f"ECE.{name}"] == pytest.approx(100 * plain_ece(scores[index], labels == index, 10)[0])
    assert metrics["mECE"] == pytest.approx(np.mean([metrics[f"ECE.{name}"] for name in CLASSES]))
    assert metrics["confidence"] == pytest.approx(100 * scores.max(0).mean())
    assert metrics["accuracy"] == pytest.approx(100 * (scores.argmax(0) == labels).mean())


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not() -> None:
    scores = torch.zeros(2, 4, 4)
    scores[1] = 1
    right, wrong = CalibrationMetric(classes=["a", "b"]), CalibrationMetric(classes=["a", "b"])
    right.update(scores, torch.ones(4, 4))
    wrong.update(scores, torch.zeros(4, 4))
    assert right.compute()["ECE"] == 0
    assert wrong.compute()["ECE"] == wrong.compute()["MCE"] == 100


def test_one_channel_is_the_second_class() -> None:
    score = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    truth = (score[0] > 0.5).to(torch.uint8)
    one, two = CalibrationMetric(classes=["a", "b"]), CalibrationMetric(classes=["a", "b"])
    one.update(score, truth)
    two.update(torch.cat([1 - score, score]), truth)
    assert one.compute() == two.compute()


def test_calibration_without_pixels_is_nan() -> None:
    metric = CalibrationMetric(classes=CLASSES)
    assert all(math.isnan(value) for value in metric.compute().values())
    metric.update(torch.rand(3, 2, 2).softmax(0), torch.full((2, 2), 255))
    assert all(math.isnan(value) for value in metric.compute().values())
    assert metric.diagram().shape == (15, 3)


def test_merged_calibration_equals_the_whole() -> None:
    whole, parts = CalibrationMetric(classes=CLASSES), [CalibrationMetric(classes=CLASSES) for _ in range(3)]
    for seed, part in enumerate(parts):
        whole.update(*scene(seed))
        part.update(*scene(seed))
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == pytest.approx(whole.compute())


def test_missing_scores_are_refused() -> None:
    prediction = Prediction({"seg": torch.zeros(2, 2)})
    for metric in (CalibrationMetric(classes=CLASSES), BinaryMetric()):
        with pytest.raises(DataError, match="seg_probabilities"):
            metric.update(prediction, Targets({"seg": torch.zeros(2, 2)}))
        with pytest.raises(DataError, match=r"\(3, 2, 2\).*\(2, 3\)"):
            metric.update(torch.zeros(3, 2, 2), torch.zeros(2, 3))
    with pytest.raises(DataError, match="2 classes, but there are 3"):
        CalibrationMetric(classes=CLASSES).update(torch.zeros(2, 2, 2), torch.zeros(2, 2))
    with pytest.raises(DataError, match="class 5"):
        BinaryMetric(positive=5).update(torch.zeros(3, 2, 2), torch.zeros(2, 2))


@pytest.mark.parametrize(
    "wrong", [lambda: CalibrationMetric(0), lambda: BinaryMetric(bins=1), lambda: BinaryMetric(-1)]
)
def test_wrong_arguments_are_refused(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()


# ---------------------------------------------------------------- thresholds


def by_sorting(score: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return the metrics with every score as a threshold of its own."""
    order = np.argsort(-score, kind="stable")
    score, true = score[order], true[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # the last of each run of equal scores
    hits, false = np.cumsum(true)[last], np.cumsum(~true)[last]
    positives, negatives = true.sum(), (~true).sum()
    precision, recall = hits / (hits + false), hits / positives
    rate = np.concatenate([[0], false / negatives])
    return {
        "AP": 100 * float(np.sum(np.diff(recall, prepend=0) * precision)),
        "AUC": 100 * float(np.sum(np.diff(rate) * (np.append(0, recall[:-1]) + recall) / 2)),
        "bestF1": 100 * float((2 * hits / (hits + false + positives)).max()),
        "bestIoU": 100 * float((hits / (false + positives)).max()),
    }


@pytest.mark.parametrize("bins", [64, 4096, 65536])
def test_areas_are_within_their_bounds_of_sorting(bins: int) -> None:
    metric = BinaryMetric(positive=1, bins=bins)
    for seed in range(3):
        metric.update(*scene(seed))
    metrics, (scores, labels) = metric.compute(), counted(range(3))
    exact = by_sorting(scores[1].astype(np.float32), labels == 1)
    for name in ("AP", "AUC"):
        assert abs(metrics[name] - exact[name]) <= metrics[f"{name}_error"] + 1e-9
    assert metrics["AP_error"] < 4000 / bins
    assert metrics["AUC_error"] < 200 / bins
    assert metrics["bestF1"] <= exact["bestF1"] + 1e-9
    assert metrics["bestF1"] == pytest.approx(exact["bestF1"], abs=100 / bins)


def test_a_best_threshold_reproduces_its_metric() -> None:
    metric = BinaryMetric()
    for seed in range(2):
        metric.update(*scene(seed))
    metrics, (scores, labels) = metric.compute(), counted(range(2))
    for name in ("F1", "IoU"):
        given = scores[1].astype(np.float32) > metrics[f"best{name}_threshold"]
        hits, either = (given & (labels == 1)).sum(), (given | (labels == 1)).sum()
        exact = hits / either if name == "IoU" else 2 * hits / (given.sum() + (labels == 1).sum())
        assert metrics[f"best{name}"] == pytest.approx(100 * exact)


def test_scores_on_the_bins_have_no_error() -> None:
    score = torch.tensor([[[0.25, 0.5, 0.5, 1.0]]])
    truth = torch.tensor([[0, 1, 0, 1]])
    metric = BinaryMetric(bins=4)
    metric.update(score, truth)
    metrics = metric.compute()
    # Thresholds 0.75, 0.25 and 0: precision 1, 2/3, 1/2 at recall 1/2, 1, 1; the equal scores are one step.
    assert metrics["AP"] == pytest.approx(100 * (0.5 * 1 + 0.5 * 2 / 3))
    assert metrics["AUC"] == pytest.approx(100 * 3.5 / 4)
    assert metrics["bestF1"] == pytest.approx(80)
    assert metrics["bestF1_threshold"] == 0.25


def test_without_positives_or_negatives() -> None:
    none, all_of_it = BinaryMetric(), BinaryMetric()
    none.update(torch.rand(1, 3, 3), torch.zeros(3, 3))
    all_of_it.update(torch.rand(1, 3, 3), torch.ones(3, 3))
    assert all(math.isnan(value) for value in none.compute().values())
    assert all_of_it.compute()["AP"] == 100
    assert math.isnan(all_of_it.compute()["AUC"])


def test_merging_other_bins_is_refused() -> None:
    with pytest.raises(UsageError, match="bins"):
        BinaryMetric(bins=8).merge(BinaryMetric(bins=16))
