"""Checks of data sets, transforms and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from segkernel.catalog import Catalog
from segkernel.sample import Geometry, LabelMap, Sample, Size
from segkernel.testing import check_object


def failed(group: str, target: object) -> set[str]:
    return {result.check for result in check_object(group, target, catalog=Catalog()) if result.status == "failed"}


# ---------------------------------------------------------------- data sets


class GoodDataset:
    """Two images of noise."""

    classes = ("a", "b")
    palette = ((0, 0, 0), (255, 0, 0))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        if index >= 2:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        labels = rng.integers(0, 2, (8, 9)).astype(np.uint8)
        return Sample({"seg": LabelMap(labels)}, {"name": str(index)}, rng.integers(0, 256, (8, 9, 3), np.uint8))


class Endless(GoodDataset):
    """Never raises IndexError."""

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index % 2)


class ShortPalette(GoodDataset):
    """Has a colour too few."""

    palette = ((0, 0, 0),)


class StrayLabel(GoodDataset):
    """Has a label without a class."""

    classes = ("a",)
    palette = ((0, 0, 0),)


class OtherSize(GoodDataset):
    """Its label map is not as large as the image."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.fields["seg"] = LabelMap(sample["seg"].array[1:])
        return sample


class Shares(GoodDataset):
    """Returns arrays that it keeps."""

    def __init__(self) -> None:
        self.kept = [super(Shares, self).__getitem__(index) for index in range(2)]

    def __getitem__(self, index: int) -> Sample:
        return self.kept[index]


class Unpicklable(GoodDataset):
    """Holds a local function."""

    def __init__(self) -> None:
        self.read = lambda: None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (GoodDataset, set()),
        (Endless, {"length"}),
        (ShortPalette, {"classes"}),
        (StrayLabel, {"samples"}),
        (OtherSize, {"samples"}),
        (Shares, {"repeatable"}),
        (Unpicklable, {"pickle"}),
    ],
)
def test_a_faulty_data_set_fails_the_expected_checks(target: Any, expected: set[str]) -> None:
    assert failed("datasets", target) == expected


# ---------------------------------------------------------------- transforms


@dataclass(frozen=True)
class Window(Geometry):
    """64 x 80 pixels from (top, left) on, mirrored left-right when ``step`` is -1."""

    top: int
    left: int
    step: int

    def size(self, size: Size) -> Size:
        return 64, 80

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        return array[self.top : self.top + 64, self.left : self.left + 80][:, :: self.step]


class GoodTransform:
    """Flips, crops and darkens."""

    needs = 0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.apply(Window(int(rng.integers(8)), int(rng.integers(8)), int(rng.choice([1, -1]))))
        sample.image = (sample.image * rng.uniform(0.5, 1.0)).astype(np.uint8)
        return sample


class FlipsImageOnly(GoodTransform):
    """Forgets the labels."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.image = sample.image[:, ::-1]
        return sample


class BlendsLabels(GoodTransform):
    """Interpolates class ids."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        array = sample["seg"].array
        sample["seg"] = LabelMap(((array.astype(int) + np.roll(array, 1, 1)) // 2).astype(np.uint8))
        return sample


class OwnGenerator(GoodTransform):
    """Draws from numpy's global generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.image = (sample.image * np.random.uniform(0.5, 1.0)).astype(np.uint8)
        return sample


class CropsImageOnly(GoodTransform):
    """Leaves the labels larger than the image."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.image = sample.image[:-4]
        return sample


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (GoodTransform, set()),
        (FlipsImageOnly, {"moves-together"}),
        (BlendsLabels, {"labels"}),
        (OwnGenerator, {"reproducible"}),
    ],
)
def test_a_faulty_transform_fails_the_expected_checks(target: Any, expected: set[str]) -> None:
    assert failed("transforms", target) == expected


def test_a_transform_that_forgets_a_field_fails() -> None:
    assert "fields" in failed("transforms", CropsImageOnly)


# ---------------------------------------------------------------- metrics


class GoodMetric:
    """Mean IoU from a confusion matrix."""

    def __init__(self, num_classes: int = 4) -> None:
        self.num_classes = num_classes
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: Any, target: Any) -> None:
        truth, guess = target["seg"].numpy().ravel(), prediction.labels.numpy().ravel()
        counted = truth != 255
        np.add.at(self.matrix, (truth[counted], guess[counted]), 1)

    def merge(self, other: Any) -> None:
        self.matrix = self.matrix + other.matrix

    def compute(self) -> dict[str, float]:
        hit = self.matrix.diagonal()
        with np.errstate(invalid="ignore"):
            iou = hit / (self.matrix.sum(0) + self.matrix.sum(1) - hit)
        return {"mIoU": float(100 * iou.mean())}


class Averages(GoodMetric):
    """Averages where it should add."""

    def merge(self, other: Any) -> None:
        self.matrix = np.maximum(self.matrix, other.matrix)


class CountsIgnored(GoodMetric):
    """Counts ignored pixels as class 0."""

    def update(self, prediction: Any, target: Any) -> None:
        truth, guess = target["seg"].numpy().ravel(), prediction.labels.numpy().ravel()
        np.add.at(self.matrix, (np.where(truth == 255, 0, truth), guess), 1)


class SharedTable(GoodMetric):
    """All instances count in one table."""

    def __deepcopy__(self, memo: Any) -> SharedTable:
        other = type(self)(self.num_classes)
        other.matrix = self.matrix
        return other


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (GoodMetric, set()),
        (Averages, {"merge"}),
        (CountsIgnored, {"reference"}),
        (SharedTable, {"copies"}),
    ],
)
def test_a_faulty_metric_fails_the_expected_checks(target: Any, expected: set[str]) -> None:
    pytest.importorskip("torch")
    assert failed("metrics", target) == expected
