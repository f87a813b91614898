"""Hausdorff distance, mean distance and surface Dice against scipy and values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkernel.errors import UsageError
from segplug_datasets.metrics.surface import HausdorffMetric, SurfaceDiceMetric, contour, distances_to

CLASSES = ["rest", "thing"]


def blob(seed: int, size: tuple[int, int] = (70, 90)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=size)
    return (ndimage.gaussian_filter(noise, 5) > 0.02).astype(np.uint8)


def square(top: int, left: int, side: int = 10, size: tuple[int, int] = (40, 40)) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    labels[top : top + side, left : left + side] = 1
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_distances_are_exact(seed: int) -> None:
    mask = np.random.default_rng(seed).random((120, 333)) < 0.002
    mask[0, 0] = True
    assert distances_to(mask) == pytest.approx(ndimage.distance_transform_edt(~mask), abs=1e-4)


def test_the_contour_is_that_of_scipy() -> None:
    mask = blob(3).astype(bool)
    assert (contour(mask) == (mask & ~ndimage.binary_erosion(mask, border_value=0))).all()


def directed(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    edges = [m & ~ndimage.binary_erosion(m, border_value=0) for m in (mask, other)]
    return ndimage.distance_transform_edt(~edges[1])[edges[0]]


@pytest.mark.parametrize("percentile", [95, 100])
def test_equals_scipy(percentile: float) -> None:
    metric = HausdorffMetric(percentile, spacing=0.5, classes=CLASSES)
    far, near = [], []
    for seed in range(3):
        truth, predicted = blob(seed), blob(seed + 7)
        metric.update(torch.from_numpy(predicted), torch.from_numpy(truth))
        there, back = directed(predicted == 1, truth == 1), directed(truth == 1, predicted == 1)
        far.append(0.5 * max(np.percentile(there, percentile), np.percentile(back, percentile)))
        near.append(0.5 * np.concatenate([there, back]).mean())
    metrics = metric.compute()
    assert metrics[f"HD{percentile}.thing"] == pytest.approx(np.mean(far), rel=1e-5)
    assert metrics["ASSD.thing"] == pytest.approx(np.mean(near), rel=1e-5)
    assert metrics["mASSD"] == pytest.approx((metrics["ASSD.thing"] + metrics["ASSD.rest"]) / 2)


def test_a_shifted_square_by_hand() -> None:
    metric = HausdorffMetric(100, classes=CLASSES)
    metric.update(square(10, 13), square(10, 10))
    assert metric.compute()["HD100.thing"] == 3


def test_equal_regions_have_distance_zero() -> None:
    metric = HausdorffMetric(classes=[*CLASSES, "never"])
    metric.update(square(3, 3), square(3, 3))
    metrics = metric.compute()
    assert metrics["HD95.thing"] == metrics["ASSD.thing"] == 0
    assert math.isnan(metrics["HD95.never"])
    assert metric.table().splitlines()[4].split() == ["never", "-", "-"]


def test_a_missed_region_costs_the_diagonal_or_nothing() -> None:
    truth, nothing = square(3, 3), np.zeros((40, 40), np.uint8)
    strict, lenient = HausdorffMetric(classes=CLASSES), HausdorffMetric(missing="skip", classes=CLASSES)
    for metric in (strict, lenient):
        metric.update(nothing, truth)
    assert strict.compute()["HD95.thing"] == pytest.approx(40 * math.sqrt(2))
    assert math.isnan(lenient.compute()["HD95.thing"])


def test_ignored_pixels_belong_to_no_region() -> None:
    truth = square(10, 10)
    truth[:, 30:] = 255
    predicted = square(10, 10)
    predicted[12:20, 32:38] = 1
    metric = HausdorffMetric(classes=CLASSES)
    metric.update(predicted, truth)
    assert metric.compute()["HD95.thing"] == 0


def test_surface_dice_of_a_shifted_square() -> None:
    """The outline of a square of ten, its corners cut: four sides of 9 and four slants of sqrt(1/2)."""
    truth, predicted = square(10, 10), square(10, 12)
    sides, corner = 9.0, math.sqrt(0.5)
    length = 4 * sides + 4 * corner
    near = SurfaceDiceMetric(tolerance=0, classes=CLASSES)
    near.update(predicted, truth)
    # Top and bottom lie on one line for 7 straight pieces and end in a corner of the other outline at each end.
    slants = _at_distance_zero(truth, predicted)
    assert near.compute()["SurfaceDice.thing"] == pytest.approx(100 * slants / length)
    far = SurfaceDiceMetric(tolerance=2, classes=CLASSES)
    far.update(predicted, truth)
    assert far.compute()["SurfaceDice.thing"] == 100


def _at_distance_zero(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean length of the pieces of one outline whose square of four pixels is also one of the other's."""
    pieces = [_pieces(mask) for mask in (first, second)]
    shared = (pieces[0] > 0) & (pieces[1] > 0)
    return float((pieces[0][shared].sum() + pieces[1][shared].sum()) / 2)


def _pieces(mask: np.ndarray) -> np.ndarray:
    """Return the lengths of contour, piece by piece, from how many of the four pixels are inside, and where."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 1), (2, 2))
    lengths = np.zeros(windows.shape[:2])
    for place in np.ndindex(lengths.shape):
        (a, b), (c, d) = windows[place]
        inside = int(a) + int(b) + int(c) + int(d)
        diagonal = inside == 2 and a == d
        lengths[place] = {0: 0, 1: 0.5**0.5, 2: 2**0.5 if diagonal else 1, 3: 0.5**0.5, 4: 0}[inside]
    return lengths


@pytest.mark.parametrize("tolerance", [0, 1, 2.5])
def test_surface_dice_equals_a_plain_computation(tolerance: float) -> None:
    metric, within, total = SurfaceDiceMetric(tolerance, classes=CLASSES), 0.0, 0.0
    for seed in range(2):
        truth, predicted = blob(seed), blob(seed + 3)
        metric.update(predicted, truth)
        ours, theirs = _pieces(predicted), _pieces(truth)
        for here, there in ((ours, theirs), (theirs, ours)):
            distance = ndimage.distance_transform_edt(there == 0)
            within += here[distance <= tolerance].sum()
            total += here.sum()
    assert metric.compute()["SurfaceDice.thing"] == pytest.approx(100 * within / total)


def test_surface_dice_of_a_missed_region_is_zero() -> None:
    metric = SurfaceDiceMetric(classes=[*CLASSES, "never"])
    metric.update(np.zeros((40, 40), np.uint8), square(5, 5))
    metrics = metric.compute()
    assert metrics["SurfaceDice.thing"] == 0
    assert math.isnan(metrics["SurfaceDice.never"])


@pytest.mark.parametrize("arguments", [{"percentile": 0}, {"spacing": 0}, {"missing": "inf"}])
def test_wrong_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(UsageError):
        HausdorffMetric(**arguments)


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(UsageError, match="tolerance"):
        SurfaceDiceMetric(-1)
