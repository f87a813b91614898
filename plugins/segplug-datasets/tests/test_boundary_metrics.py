"""Boundary IoU and F1 against values computed by hand and with scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkernel.errors import DataError, UsageError
from segplug_datasets.metrics.boundary import BoundaryF1, BoundaryIoU, near_contours

CLASSES = ["a", "b", "c"]


def blobs(seed: int, size: tuple[int, int] = (60, 80), classes: int = 3) -> np.ndarray:
    """Return a label map (H, W) of smooth regions."""
    noise = np.random.default_rng(seed).normal(size=(classes, *size))
    return np.argmax([ndimage.gaussian_filter(layer, 4) for layer in noise], 0).astype(np.uint8)


def boundary_of(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return a mask without its erosion, as published: outside the image there is nothing."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=steps, border_value=0)


def test_two_squares_by_hand() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    predicted = np.zeros((20, 20), np.uint8)
    predicted[5:15, 6:16] = 1
    metric = BoundaryIoU(dilation_ratio=0.02, classes=["rest", "square"])  # 0.57 pixels: one
    metric.update(predicted, truth)
    # Rings of 36 pixels each; they share 9 + 9 of the top and bottom rows, and no column.
    assert metric.compute()["BoundaryIoU.square"] == pytest.approx(100 * 18 / (36 + 36 - 18))


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.05])
def test_equals_erosion_class_by_class(ratio: float) -> None:
    metric, shared, either = BoundaryIoU(ratio, classes=CLASSES), np.zeros(3), np.zeros(3)
    for seed in range(3):
        truth, predicted = blobs(seed), blobs(seed + 1)
        metric.update(predicted, torch.from_numpy(truth))
        steps = max(1, round(ratio * 100))
        for index in range(3):
            ours, theirs = boundary_of(predicted == index, steps), boundary_of(truth == index, steps)
            shared[index] += (ours & theirs).sum()
            either[index] += (ours | theirs).sum()
    metrics = metric.compute()
    assert [metrics[f"BoundaryIoU.{name}"] for name in CLASSES] == pytest.approx(100 * shared / either)
    assert metrics["mBoundaryIoU"] == pytest.approx(100 * np.mean(shared / either))


def test_ignored_regions_have_no_contour() -> None:
    ids = np.full((9, 30), 2, np.uint8)
    ids[:, 10:20] = 0  # ignored
    ids[:, 20:] = 2
    near = near_contours(ids, 1)
    assert not near[1:-1, 1:-1].any()
    assert near[0, :10].all()  # the border of the image is a contour
    assert not near[:, 10:20].any()


def test_ignored_pixels_do_not_count() -> None:
    truth, predicted = blobs(1), blobs(2)
    ignored = truth.copy()
    ignored[:, :40] = 255
    wrong = predicted.copy()
    wrong[:, :40] = 2
    metrics = [BoundaryIoU(classes=CLASSES), BoundaryIoU(classes=CLASSES)]
    metrics[0].update(predicted, ignored)
    metrics[1].update(wrong, ignored)
    assert metrics[0].compute() == metrics[1].compute()


def test_a_class_in_neither_is_absent() -> None:
    metric = BoundaryIoU(classes=["a", "never"])
    metric.update(np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))
    metrics = metric.compute()
    assert math.isnan(metrics["BoundaryIoU.never"])
    assert metrics["mBoundaryIoU"] == 100
    assert metric.table().splitlines()[3].split() == ["never", "-"]
    assert math.isnan(BoundaryIoU(classes=["a"]).compute()["mBoundaryIoU"])


def f1_reference(predicted: np.ndarray, truth: np.ndarray, index: int, reach: float) -> float:
    contours = []
    for labels in (predicted, truth):
        mask = labels == index
        contours.append(mask & ~ndimage.binary_erosion(mask, border_value=1))
    ours, theirs = contours
    precision = (ndimage.distance_transform_edt(~theirs)[ours] <= reach).mean()
    recall = (ndimage.distance_transform_edt(~ours)[theirs] <= reach).mean()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.0075, 0.03])
def test_f1_equals_distance_transforms_of_scipy(tolerance: float) -> None:
    metric, expected = BoundaryF1(tolerance, classes=CLASSES), []
    for seed in range(2):
        truth, predicted = blobs(seed), blobs(seed + 5)
        metric.update(predicted, truth)
        expected.append([f1_reference(predicted, truth, index, tolerance * 100) for index in range(3)])
    metrics = metric.compute()
    assert [metrics[f"BoundaryF1.{name}"] for name in CLASSES] == pytest.approx(100 * np.mean(expected, 0))


def test_f1_of_a_missed_class_is_zero() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:9, 5:9] = 1
    metric = BoundaryF1(classes=["rest", "thing", "never"])
    metric.update(np.zeros_like(truth), truth)
    metrics = metric.compute()
    assert metrics["BoundaryF1.thing"] == 0
    assert math.isnan(metrics["BoundaryF1.never"])


@pytest.mark.parametrize("metric", [BoundaryIoU, BoundaryF1])
def test_wrong_use_is_refused(metric: type) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        metric(0.0)
    with pytest.raises(UsageError, match="classes"):
        metric().update(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(UsageError, match="254"):
        metric(classes=[str(i) for i in range(255)]).update(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"\(2, 2\).*\(2, 3\)"):
        metric(classes=["a"]).update(np.zeros((2, 2)), np.zeros((2, 3)))
