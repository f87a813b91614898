"""A tiny data set on disk, for the conformance checks of data set classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segplug_datasets import image


def write_example(images: Path, masks: Path, values: Sequence[int], image_suffix: str, mask_suffix: str) -> None:
    """Write two noise images into ``images``, and masks of the same names with values drawn from ``values``."""
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate([(12, 16), (9, 20)]):
        rng = np.random.default_rng(number)
        image.write(images / f"{number}{image_suffix}", rng.integers(0, 256, (*size, 3), np.uint8))
        image.write_mask(masks / f"{number}{mask_suffix}", rng.choice(np.array(values, np.uint8), size))
