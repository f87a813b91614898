"""Predictions as label files: one PNG per image, or per image and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkernel.files import file_name, relative_path
from segplug_datasets.image import write_mask


def write_labels(folder: str | Path, name: str, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Write a label map (H, W) as ``folder/NAME.png``, binary masks (K, H, W) as ``folder/CLASS/NAME.png`` each.

    Floats, such as depths, are written as thousandths in 16 bits.

    Raises:
        DataError: As `segplug_datasets.image.write_mask`.
    """
    if labels.dtype.kind == "f":
        labels = np.clip(np.rint(labels * 1000), 0, 65535).astype(np.uint16)
    if labels.ndim == 2:
        write_mask(Path(folder) / relative_path(f"{name}.png"), labels)
        return
    for plane, called in zip(labels, classes, strict=True):
        write_mask(Path(folder) / file_name(called) / relative_path(f"{name}.png"), plane)
