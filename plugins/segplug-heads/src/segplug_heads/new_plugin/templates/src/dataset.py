"""A data set: images and their label maps, as files of the same name in two folders. It imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkernel import image
from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segkernel.sample import LabelMap, Sample


class MyModelDataset:
    """``data_root/images/NAME.png`` with class ids, 255 where unlabelled, in ``data_root/labels/NAME.png``.

    Args:
        data_root: The folder that contains both.

    Raises:
        DataError: There is no image.
    """

    classes = ("background", "object")
    palette = ((0, 0, 0), (220, 60, 40))

    @staticmethod
    def conformance(folder: Path) -> dict[str, Any]:
        """Write two images with random labels for the conformance kit; return the arguments."""
        rng = np.random.default_rng(0)
        for name in ("a.png", "b.png"):
            for kind, values in (
                ("images", rng.integers(0, 256, (24, 32, 3))),
                ("labels", rng.choice([0, 1, IGNORE], (24, 32))),
            ):
                (folder / kind).mkdir(exist_ok=True)
                cv2.imwrite(str(folder / kind / name), values.astype(np.uint8))
        return {"data_root": str(folder)}

    def __init__(self, data_root: str) -> None:
        self.paths = sorted(Path(data_root, "images").glob("*.png"))
        if not self.paths:
            raise DataError("no images/*.png", data_root)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        label_path = path.parent.with_name("labels") / path.name
        labels = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if labels is None:
            raise DataError("the label map is missing or unreadable", str(label_path))
        return Sample({"seg": LabelMap(labels)}, {"name": path.stem, "path": str(path)}, image.read(path))
