"""Samples and their fields are transformed together and lazily; batches, targets and predictions."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from segkernel.errors import DataError
from segkernel.geometry import Raster
from segkernel.labels import Labels
from segkernel.sample import (
    DepthMap,
    Geometry,
    LabelMap,
    MultiLabelMap,
    ObjectField,
    Prediction,
    Sample,
    Size,
    Targets,
    WeightMap,
    as_targets,
    collate,
)


@dataclass(frozen=True)
class Window(Geometry):
    """What is right of and below (top, left)."""

    top: int
    left: int

    def size(self, size: Size) -> Size:
        return size[0] - self.top, size[1] - self.left

    def matrix(self, size: Size) -> np.ndarray:
        return np.array([[1.0, 0, -self.left], [0, 1, -self.top], [0, 0, 1]])

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        return array[self.top :, self.left :]


@dataclass(frozen=True)
class Mirror(Geometry):
    """Upside down; the window below comes before it."""

    def size(self, size: Size) -> Size:
        return size

    def matrix(self, size: Size) -> np.ndarray:
        return np.array([[1.0, 0, 0], [0, -1, size[0]], [0, 0, 1]])

    def raster(self, array: np.ndarray, interpolation: int, fill: float) -> np.ndarray:
        return array[::-1]

    def fuse(self, following: Geometry, size: Size) -> tuple[Geometry, ...]:
        return (following, self) if isinstance(following, Window) and not following.top else ()


class Points(ObjectField):
    """(objects, 2) float32: x and y."""

    def apply(self, geometry: Geometry, size: Size) -> Points:
        return replace(self, array=geometry.move(self.array, size).astype(np.float32))


@pytest.fixture
def sample() -> Sample:
    """A white rectangle on black, 90 x 120, with several kinds of fields."""
    mask = np.zeros((90, 120), np.uint8)
    mask[30:50, 40:70] = 1
    fields = {
        "seg": LabelMap(mask.copy()),
        "several": MultiLabelMap(np.stack([mask, 1 - mask], 2)),
        "weight": WeightMap(mask.astype(np.float32)),
        "depth": DepthMap(mask.astype(np.float32)),
        "points": Points(np.array([[40, 30], [70, 50]], np.float32)),
    }
    return Sample(image=np.repeat(mask[..., None] * 255, 3, 2), fields=fields)


def test_every_field_moves_with_the_image(sample: Sample) -> None:
    sample.apply(Window(10, 20)).apply(Mirror())
    seen = sample.image[..., 0] > 0
    assert sample.size == seen.shape == (80, 100)
    assert np.argwhere(seen)[[0, -1]].tolist() == [[40, 20], [59, 49]]
    for name in ("seg", "weight", "depth"):
        assert np.array_equal(sample[name].array, seen)
    assert np.array_equal(sample["several"].array, np.stack([seen, ~seen], 2))
    assert sample["points"].array.tolist() == [[20, 60], [50, 40]]


def test_operations_are_recorded_and_fused_before_they_run() -> None:
    plan = Raster(np.zeros((90, 120, 3), np.uint8)).then(Window(1, 1)).then(Mirror()).then(Mirror()).then(Window(0, 9))
    assert plan.steps == (Window(1, 1), Window(0, 9), Mirror(), Mirror())
    assert plan.then(Window(9, 0)).steps[-1] == Window(9, 0)
    assert (plan.size, plan.array(0).shape, plan.steps) == ((89, 110), (89, 110, 3), ())


def test_moved_records_the_last_change_other_than_a_resize(sample: Sample) -> None:
    class Half(Mirror):
        only_scales = True

    assert sample.apply(Half()).moved == ""
    assert sample.apply(Mirror()).apply(Half()).moved == "Mirror"


def test_assigning_an_image_drops_pending_operations(sample: Sample) -> None:
    sample.apply(Mirror()).apply(Window(10, 20))
    sample.image = np.full((80, 100, 3), 5, np.uint8)
    assert sample.apply(Window(10, 50)).image.shape == (70, 50, 3)
    assert (sample.image == 5).all()
    assert sample["seg"].array.shape == (70, 50)


def test_samples_with_pending_operations_are_copied_pickled_and_collated(sample: Sample) -> None:
    sample.apply(Mirror()).apply(Window(10, 20))
    sample.original_size, sample.replaced = (9, 8), ["lost"]
    copies = [copy.deepcopy(sample), pickle.loads(pickle.dumps(sample)), replace(sample, meta={})]
    for other in copies:
        assert np.array_equal(other.image, sample.image)
        assert np.array_equal(other["seg"].array, sample["seg"].array)
    batch = collate(copies)
    assert batch.images.shape == (3, 3, 80, 100)
    assert (batch.original_sizes, batch.replaced) == ([(9, 8)] * 3, ["lost"] * 3)


def test_a_field_of_another_size_is_refused() -> None:
    wrong = Sample(image=np.zeros((4, 4, 3), np.uint8), fields={"seg": LabelMap(np.zeros((4, 5), np.uint8))})
    with pytest.raises(DataError, match=r"LabelMap of \(4, 5\) for an image of \(4, 4\)"):
        wrong.apply(Mirror())


def test_fields_are_added_read_and_removed() -> None:
    sample = Sample()
    sample["seg"] = LabelMap(np.zeros((2, 2), np.uint8))
    assert "seg" in sample
    assert list(sample) == ["seg"]
    del sample["seg"]
    assert sample.get("seg") is None


def test_collate_pads_to_the_largest_and_remembers_the_sizes() -> None:
    samples = [
        Sample(image=np.full((h, w, 3), 9, np.uint8), fields={"seg": LabelMap(np.ones((h, w), np.uint8))})
        for h, w in ((4, 6), (5, 3))
    ]
    batch = collate(samples)
    assert batch.images.shape == (2, 3, 5, 6)
    assert batch.sizes == [(4, 6), (5, 3)]
    assert batch.images[0, 0, 4].tolist() == [0] * 6
    assert batch.targets["seg"][1, 0].tolist() == [1, 1, 1, 255, 255, 255]


@pytest.mark.parametrize("bands", [1, 4, 130])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_collate_takes_any_number_of_bands(bands: int, dtype: type) -> None:
    sizes = (4, 6), (5, 3)
    images = [np.arange(h * w * bands).reshape(h, w, bands).astype(dtype)[:, ::-1] for h, w in sizes]
    batch = collate([Sample(image=image) for image in images])
    for (height, width), image, planes in zip(sizes, images, batch.images):
        assert np.array_equal(planes[:, :height, :width].permute(1, 2, 0), image)


def test_collate_refuses_different_channels_or_fields(sample: Sample) -> None:
    grey = Sample(image=np.zeros((4, 4, 1), np.uint8), meta={"path": "grey.png"})
    with pytest.raises(DataError, match=r"grey\.png: .*1 channels uint8 .* and 3 channels"):
        collate([sample, grey])
    with pytest.raises(DataError, match=r"fields none and .* fields .*seg"):
        collate([sample, Sample(image=np.zeros((4, 4, 3), np.uint8))])


def test_a_mirrored_sample_becomes_tensors(sample: Sample) -> None:
    targets = as_targets(sample.apply(Mirror()))
    assert targets["seg"].dtype == torch.uint8
    assert targets["seg"].sum() == 600


def test_containers_move_and_detach_every_tensor() -> None:
    scores = torch.ones(2, requires_grad=True)
    prediction = Prediction({"seg": scores, "list": [scores]}, {"name": "a"})
    assert not prediction.detach()["list"][0].requires_grad
    assert prediction.to("meta")["seg"].device.type == "meta"
    assert prediction.to("meta").meta == {"name": "a"}
    assert Targets({"seg": scores}).cpu()["seg"].device.type == "cpu"


def test_samples_survive_pickling(sample: Sample) -> None:
    again = pickle.loads(pickle.dumps(sample))
    assert np.array_equal(again["seg"].array, sample["seg"].array)


def test_collate_keeps_other_fields_than_rasters_as_lists(sample: Sample) -> None:
    targets = collate([sample, sample]).targets
    assert [len(points) for points in targets["points"]] == [2, 2]
    assert targets["several"].shape == (2, 2, 90, 120)


def test_samples_and_predictions_show_shapes_dtypes_and_classes_in_one_line():
    sample = Sample({"seg": LabelMap(np.zeros((4, 5), np.uint8))}, image=np.zeros((4, 5, 3), np.uint8))
    assert repr(sample) == "Sample(image (4, 5, 3) uint8, seg (4, 5) uint8)"
    prediction = Prediction({"seg": np.zeros((4, 5), np.uint8)}, {"labels": Labels(("sky", "road"))})
    assert repr(prediction) == "Prediction(seg (4, 5) uint8, classes sky, road)"
