"""Field kinds that these packages do not know pass through every transform, mixing and batching."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest

from segkernel import build
from segkernel.catalog import Catalog
from segkernel.data import Loader
from segkernel.sample import Field, Geometry, LabelMap, ObjectField, RasterField, Sample, Size, as_targets
from segplug_datasets.packed import PackedDataset, pack
from segplug_datasets.transforms.copy_paste import CopyPaste
from segplug_datasets.transforms.mix import CutMix
from segplug_datasets.transforms.mosaic import Mosaic

OBJECT = 3


class Polygons(ObjectField):
    """(objects, points, 2) float32: x and y."""

    def apply(self, geometry: Geometry, size: Size) -> Polygons:
        return replace(self, array=geometry.move(self.array, size).astype(np.float32))

    def masks(self, size: Size) -> np.ndarray | None:
        y, x = (np.arange(edge) + 0.5 for edge in size)
        found = [inside(polygon, x[None, :], y[:, None]) for polygon in self.array]
        return np.stack(found, 2) if found else np.zeros((*size, 0), bool)


class Heights(RasterField):
    """Metres above the sea, float32; -1 where unknown."""

    fill = -1


@dataclass
class Place(Field):
    """Where on earth it was taken, (2,) float64: what no change of pixels changes."""

    source: str = ""

    def apply(self, geometry: Geometry, size: Size) -> Place:
        return self


def inside(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points lie in a polygon: those from which a ray to the right crosses its edges an odd number of
    times."""
    odd = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0)):
        spans = (y0 > y) != (y1 > y)
        odd ^= spans & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1))
    return odd


def square(left: float, top: float, edge: float) -> np.ndarray:
    along = np.linspace(0, edge, 9)[:-1]
    corners = [(left + along, top + 0 * along), (left + edge + 0 * along, top + along),
               (left + edge - along, top + edge + 0 * along), (left + 0 * along, top + edge - along)]  # fmt: skip
    return np.concatenate([np.stack(side, -1) for side in corners])


def scene(seed: int) -> Sample:
    """Two squares, which labels, heights and polygons all show."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((80, 110), np.uint8)
    places = [(int(rng.integers(2, 30)), int(rng.integers(2, 50))), (int(rng.integers(58, 82)), int(rng.integers(54)))]
    for left, top in places:
        labels[top : top + 24, left : left + 24] = OBJECT
    fields = {
        "seg": LabelMap(labels),
        "heights": Heights(labels.astype(np.float32) * 10),
        "polygons": Polygons(np.stack([square(*place, 24) for place in places]).astype(np.float32)),
        "place": Place(np.array([47.5, 8.7]), source=f"scene {seed}"),
    }
    return Sample(fields, {"name": str(seed)}, np.repeat(labels[..., None] * np.uint8(80), 3, 2))


def filled(sample: Sample) -> np.ndarray:
    """Return the pixels of all polygons."""
    masks = sample["polygons"].masks(sample.size)
    return masks.any(2)


def widened(mask: np.ndarray) -> np.ndarray:
    """Return the pixels within one of a mask: a label is that of the nearest pixel."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def cases() -> list[Any]:
    catalog = Catalog.discover()
    found = []
    for row in sorted(catalog.rows, key=lambda row: row.name):
        # Albumentations moves what has a value per pixel, and says so of other fields.
        if (row.group, row.distribution) == ("transforms", "segplug-datasets") and row.name != "Albu":
            examples = getattr(catalog.load("transforms", row.qualified), "conformance", {})
            for arguments in [examples] if isinstance(examples, dict) else examples:
                found.append(pytest.param({"type": row.qualified, **arguments}, id=f"{row.name}-{len(found)}"))
    return found


@pytest.mark.parametrize("spec", cases())
def test_every_transform_moves_unknown_kinds(spec: dict[str, Any]) -> None:
    transform = build("transforms", spec)
    for seed in range(2):
        samples = [scene(10 * seed + number) for number in range(1 + transform.needs)]
        after = transform(samples[0], np.random.default_rng(seed), *samples[1:])
        if after is None:
            continue
        labels, known = after["seg"].array, after["seg"].array != 255
        assert isinstance(after["polygons"], Polygons)
        assert after["heights"].array.shape == labels.shape
        assert (np.isin(after["heights"].array, (0, 30, -1))).all()
        assert (after["place"].source, after["place"].array[0]) == (f"scene {10 * seed}", 47.5)
        shown, drawn = labels == OBJECT, filled(after) & known
        if shown.sum() < 100:
            continue
        assert (shown & widened(drawn)).sum() / shown.sum() > 0.95
        if not transform.needs:  # of several images, objects may be covered in part
            assert (drawn & widened(shown)).sum() / drawn.sum() > 0.95


def test_a_mosaic_lists_the_objects_of_all_its_images() -> None:
    after = Mosaic((80, 110), center_ratio_range=(1.0, 1.0))(scene(0), np.random.default_rng(0), *map(scene, (1, 2, 3)))
    assert len(after["polygons"].array) > 2


def test_what_is_covered_by_another_image_is_dropped() -> None:
    for seed in range(8):
        after = CutMix(1.0)(scene(seed), np.random.default_rng(seed), scene(seed + 50))
        masks = after["polygons"].masks(after.size)
        assert (masks & (after["seg"].array == OBJECT)[..., None]).any((0, 1)).all()


def test_polygons_are_pasted_as_the_instances_they_are() -> None:
    counts = set()
    for seed in range(12):
        after = CopyPaste(1.0, max_num_pasted=1)(scene(seed), np.random.default_rng(seed), scene(seed + 50))
        masks = after["polygons"].masks(after.size)
        assert (filled(after) == (after["seg"].array == OBJECT)).mean() > 0.99
        counts.add(masks.shape[2])
    assert counts <= {1, 2, 3}
    assert 3 in counts


class Scenes:
    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return scene(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_they_reach_the_batch_and_the_truth(workers: int) -> None:
    crop = build("transforms", {"type": "RandomCrop", "crop_size": [200, 60]})
    batch = next(Loader(Scenes(), [crop], micro_batch=2, workers=workers).train_batches())
    assert [tuple(polygons.shape) for polygons in batch.targets["polygons"]] == [(2, 32, 2)] * 2
    assert tuple(batch.targets["heights"].shape) == (2, 80, 60)
    assert [tuple(place.shape) for place in batch.targets["place"]] == [(2,)] * 2
    truth = as_targets(scene(0))
    assert tuple(truth["polygons"].shape) == (2, 32, 2)


def test_padding_of_a_batch_is_the_kinds_own() -> None:
    crop = build("transforms", {"type": "CenterCrop", "crop_size": [60, 80]})
    small, large = crop(scene(0), np.random.default_rng(0)), scene(1)
    heights = small["heights"].stack([small["heights"], large["heights"]], large.size)
    assert tuple(heights.shape) == (2, 80, 110)
    assert heights[0, :, 60:].unique().tolist() == [-1]


def test_they_are_packed_and_read_back(tmp_path: Any) -> None:
    pack(Scenes(), tmp_path / "pack")
    read = PackedDataset(tmp_path / "pack")[3]
    assert (type(read["polygons"]), type(read["place"])) == (Polygons, Place)
    assert read["place"].source == "scene 3"
    assert np.array_equal(read["polygons"].array, scene(3)["polygons"].array)
