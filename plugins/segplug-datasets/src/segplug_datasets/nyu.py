"""NYU Depth V2: depth of indoor scenes (Silberman et al., 2012).

``seg-kernel data prepare nyu`` writes this layout. Homepage with the terms of use:
cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from segkernel.annotations import FileName, Positive
from segkernel.errors import DataError
from segkernel.sample import DepthMap, Sample
from segplug_datasets import image
from segplug_datasets.example import write_example
from segplug_datasets.files import PairedFiles, read_annotation
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import resolve
from segplug_datasets.tables import names

_SCENES = """
printer_room, bathroom, living_room, study, conference_room, study_room, kitchen, home_office, bedroom, dinette,
playroom, indoor_balcony, laundry_room, basement, excercise_room, foyer, home_storage, cafe, furniture_store,
office_kitchen, student_lounge, dining_room, reception_room, computer_lab, classroom, office, bookstore
"""


class DepthPrefix(TypedDict, total=False):
    """Folders under ``data_root``: of the images, and of the depth files (none for a set without annotations)."""

    img_path: FileName
    depth_map_path: FileName | None


class NYUDataset(PairedFiles):
    """NYU Depth V2: the field ``depth`` in metres, 0 where unknown; classes are the types of rooms.

    The room comes from the file's name, ``living_room_00012.jpg``: ``meta["category_id"]`` is its class id, -1 when
    the name is not one of the classes.

    Args:
        data_root: Root folder of the data set.
        data_prefix: Folders under ``data_root``.
        img_suffix: Suffix of the image file names.
        depth_map_suffix: Suffix of the depth file names.
        depth_rescale_factor: Metres per unit of the file value; the published files are in millimetres.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        write_example(folder / "images", folder / "annotations", (0, 120, 250), ".jpg", ".png")
        image.write_mask(folder / "annotations/0.png", np.full((12, 16), 2500))
        return [{"data_root": str(folder), "depth_rescale_factor": 0.001}]

    def __init__(
        self,
        data_root: str | Path = "data/nyu",
        data_prefix: DepthPrefix | None = None,
        img_suffix: str = ".jpg",
        depth_map_suffix: str = ".png",
        depth_rescale_factor: Positive = 0.001,
    ) -> None:
        prefix = data_prefix or DepthPrefix(img_path="images", depth_map_path="annotations")
        self.data_root, self.depth_rescale_factor = str(data_root), depth_rescale_factor
        depths, root = prefix.get("depth_map_path"), resolve(data_root)
        super().__init__(
            resolve(root, prefix.get("img_path", "")),
            resolve(root, depths) if depths else None,
            LabelSpec(names(_SCENES)),
            img_suffix,
            depth_map_suffix,
        )

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        room = re.split(r"_?\d", Path(sample.meta["name"]).name, maxsplit=1)[0]  # living_room_0012a_00034
        sample.meta["category_id"] = self.classes.index(room) if room in self.classes else -1
        return sample

    def _annotate(self, sample: Sample, mask_path: str) -> None:
        raw = read_annotation(sample, mask_path)
        if raw.ndim != 2:
            raise DataError(f"a depth file has one channel, this one has shape {raw.shape}", mask_path)
        sample["depth"] = DepthMap(raw.astype(np.float32) * np.float32(self.depth_rescale_factor))
