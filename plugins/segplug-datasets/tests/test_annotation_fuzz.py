"""Damaged annotation files: each returns samples or raises one clear error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkernel.errors import SegKernelError
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.coco_keypoints import CocoKeypointDataset
from segplug_datasets.annotations.coco_panoptic import CocoPanopticDataset
from segplug_datasets.annotations.cvat import CvatDataset
from segplug_datasets.annotations.label_studio import LabelStudioDataset
from segplug_datasets.annotations.labelme import LabelmeDataset
from segplug_datasets.annotations.yolo import YoloSegDataset

SETS: dict[Any, str] = {
    CocoInstanceDataset: "a.json",
    CocoPanopticDataset: "a.json",
    CocoKeypointDataset: "a.json",
    LabelmeDataset: "0.json",
    CvatDataset: "annotations.xml",
    LabelStudioDataset: "a.json",
    YoloSegDataset: "labels/train/0.txt",
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


@pytest.mark.parametrize("cls", SETS)
def test_damaged_files_return_samples_or_raise_one_error(cls: Any, tmp_path: Path) -> None:
    arguments = cls.conformance(tmp_path)[0]
    file = tmp_path / SETS[cls]
    data, rng, read = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(120):
        file.write_bytes(spoilt(data, rng))
        try:
            dataset = cls(**arguments)
            for index in range(len(dataset)):
                sample = dataset[index]
                assert sample["seg"].array.shape == sample.size
                assert set(np.unique(sample["seg"].array)) <= {*range(len(dataset.classes)), 255}
            read += 1
        except SegKernelError as error:
            assert str(error)  # noqa: PT017 - what is raised is one of many
    assert 0 < read < 120
