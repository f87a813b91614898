"""Damaged annotation files: each returns samples or raises one clear error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import SegKernelError
from segkernel.sample import Sample, collate
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.coco_keypoints import CocoKeypointDataset
from segplug_datasets.annotations.coco_panoptic import CocoPanopticDataset
from segplug_datasets.annotations.cvat import CvatDataset
from segplug_datasets.annotations.label_studio import LabelStudioDataset
from segplug_datasets.annotations.labelme import LabelmeDataset
from segplug_datasets.annotations.numbered import PennFudanDataset
from segplug_datasets.annotations.yolo import YoloSegDataset
from segplug_datasets.geometry import Flip
from segplug_datasets.transforms.layers import objects_of

SETS: dict[Any, str] = {
    CocoInstanceDataset: "a.json",
    CocoPanopticDataset: "a.json",
    CocoKeypointDataset: "a.json",
    LabelmeDataset: "0.json",
    CvatDataset: "annotations.xml",
    LabelStudioDataset: "a.json",
    YoloSegDataset: "labels/train/0.txt",
    PennFudanDataset: "masks/0.png",
}
OTHERS = (b"null", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"true", b"99999999999999999999", b"NaN", b'{"a": [1]}', b"")
PART = re.compile(rb'"[^"]*"|-?\d+(\.\d+)?|\[[^\[\]]*\]|\{[^{}]*\}')


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with a value put in place of another, a byte changed, or a piece missing."""
    kind = rng.integers(0, 6)
    if kind == 0:
        place = rng.integers(len(data))
        return data[:place] + bytes([rng.integers(256)]) + data[place + 1 :]
    if kind == 1:
        first, last = sorted(rng.integers(0, len(data), 2))
        return data[:first] + data[last:]
    parts = list(PART.finditer(data))
    part = parts[rng.integers(len(parts))]
    return data[: part.start()] + OTHERS[rng.integers(len(OTHERS))] + data[part.end() :]


def read_spoilt(cls: Any, folder: Path, count: int, seed: int = 0) -> int:
    """Damage the file of a tiny data set again and again, and read it; return how often that succeeds."""
    arguments = cls.conformance(folder)[0]
    with_objects: list[dict[str, Any]] = [{}, {"instances": "polygons"}]
    if cls is not CocoPanopticDataset:
        with_objects[1]["background"] = None
    file = folder / SETS[cls]
    data, rng, read = file.read_bytes(), np.random.default_rng(seed), 0
    for number in range(count):
        file.write_bytes(spoilt(data, rng))
        try:
            dataset = cls(**arguments, **with_objects[number % len(with_objects)])
            for index in range(len(dataset)):
                sample = dataset[index]
                assert sample["seg"].array.shape == sample.size
                assert set(np.unique(sample["seg"].array)) <= {*range(len(dataset.classes)), 255}
                if "boxes" in sample:
                    check_objects(sample, len(dataset.classes))
            read += 1
        except SegKernelError as error:
            assert str(error)  # noqa: PT017 - what is raised is one of many
    file.write_bytes(data)
    return read


def check_objects(sample: Sample, classes: int) -> None:
    """Check that the fields of objects agree, and survive a mirror image and a batch."""
    assert len({field.count for field in objects_of(sample).values()}) == 1
    assert (sample["classes"].array < classes).all()
    height, width = sample.size
    assert ((sample["boxes"].array >= 0) & (sample["boxes"].array <= [width, height, width, height])).all()
    assert all(np.isfinite(field.array).all() for field in objects_of(sample).values())
    if "instances" in sample:
        assert sample["instances"].masks(sample.size).shape == (height, width, sample["boxes"].count)
    collate([sample.apply(Flip("horizontal"))])


@pytest.mark.parametrize("cls", SETS)
def test_damaged_files_return_samples_or_raise_one_error(cls: Any, tmp_path: Path) -> None:
    assert 0 < read_spoilt(cls, tmp_path, 120) < 120


@pytest.mark.slow
@pytest.mark.parametrize("cls", [CocoInstanceDataset, CocoKeypointDataset, LabelmeDataset, PennFudanDataset])
def test_500_damaged_files_return_samples_or_raise_one_error(cls: Any, tmp_path: Path) -> None:
    assert 0 < read_spoilt(cls, tmp_path, 500, seed=1) < 500
