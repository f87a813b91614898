"""DepthMetric equals the reference and counts the same part of an image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segkernel.errors import DataError, UsageError
from segplug_datasets.metrics.depth import DEPTH_METRICS, DepthMetric

CASES = json.loads((Path(__file__).parent / "data/depth_metric.json").read_text())


def images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield estimates and depths as the reference saw them."""
    state = np.random.RandomState(99)
    for _ in range(2):
        truth = state.uniform(-0.5, 12, (480, 640)).astype(np.float32)
        yield (np.abs(truth) * state.uniform(0.7, 1.4, truth.shape) + 0.05).astype(np.float32), truth


@pytest.mark.parametrize("case", [case for case in CASES if "result" in case], ids=lambda case: str(case["kwargs"]))
def test_equals_the_reference(case: dict) -> None:
    metric = DepthMetric(**case["kwargs"])
    for estimate, truth in images():
        metric.update(estimate, truth)
    metrics = metric.compute()
    assert list(metrics) == list(DEPTH_METRICS)
    assert metrics == pytest.approx(case["result"], rel=2e-4)


@pytest.mark.parametrize(
    ("crop", "inside"),
    [("garg_crop", (153, 371, 44, 1197)), ("eigen_crop", (124, 342, 44, 1197)), ("nyu_crop", (45, 471, 41, 601))],
)
def test_a_crop_counts_its_rows_and_columns_only(crop: str, inside: tuple[int, int, int, int]) -> None:
    size = (375, 1242) if crop != "nyu_crop" else (480, 640)  # of KITTI, and of NYU
    top, bottom, left, right = inside
    truth, estimate = np.full(size, 2.0), np.full(size, 4.0)
    estimate[top:bottom, left:right] = 2.0
    metric = DepthMetric(["rmse"], crop_type=crop)
    metric.update(estimate, truth)
    assert metric.compute()["rmse"] == 0
    for row, column in ((top, left), (bottom - 1, right - 1)):  # its corners count
        wrong = estimate.copy()
        wrong[row, column] = 3.0
        changed = DepthMetric(["rmse"], crop_type=crop)
        changed.update(wrong, truth)
        assert changed.compute()["rmse"] > 0


def test_wrong_use_is_refused() -> None:
    with pytest.raises(UsageError, match="nyu_crop, eigen_crop, garg_crop"):
        DepthMetric(crop_type="kitti")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rmse"):
        DepthMetric(["rsme"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="shape"):
        DepthMetric().update(np.ones((2, 2)), np.ones((2, 3)))
