"""Helpers shared by tests of this package."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segkernel.sample import DepthMap, LabelMap, Sample, WeightMap
from segplug_datasets.fields import Boxes, EdgeMap, InstanceMasks, Keypoints


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture, 48 x 64, whose channels differ."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (9, 9), 0)


@pytest.fixture
def labels() -> np.ndarray:
    """Class ids 0 to 3 and 255."""
    ids = np.random.default_rng(1).integers(0, 4, (48, 64)).astype(np.uint8)
    ids[:4] = 255
    return ids


@pytest.fixture
def sample() -> Sample:
    """A white rectangle on black, 90 x 120, known to every kind of field."""
    mask = np.zeros((90, 120), np.uint8)
    mask[30:50, 40:70] = 1
    fields = {
        "seg": LabelMap(mask.copy()),
        "weight": WeightMap(mask.astype(np.float32)),
        "edge": EdgeMap(mask.copy()),
        "depth": DepthMap(mask.astype(np.float32)),
        "instances": InstanceMasks(np.stack([mask, 1 - mask], 2)),
        "boxes": Boxes(np.array([[40, 30, 70, 50], [0, 0, 120, 90]], np.float32)),
        "points": Keypoints(np.array([[[55, 40, 2]], [[9, 9, 0]]], np.float32)),
    }
    return Sample(image=np.repeat(mask[..., None] * 255, 3, 2), fields=fields)
