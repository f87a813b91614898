"""CamVid: street scenes filmed from a car, 480 x 360, 11 classes (Brostow et al., 2008).

Homepage with the terms of use: mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from segplug_datasets.example import write_example
from segplug_datasets.files import PairedFiles
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import resolve

LABELS = LabelSpec(
    classes=(
        *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
        *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
    ),
    palette=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
    ignore=(11, 255),
)


class CamVid(PairedFiles):
    """CamVid in the layout of the SegNet tutorial: ``{split}/NAME`` and ``{split}annot/NAME.png``, 11 ignored.

    Args:
        data_root: Folder with ``train``, ``trainannot`` and so on.
        split: Part of the set.

    Raises:
        DataError: When a folder is missing, or an image or mask is unpaired.
    """

    spec = LABELS

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        write_example(folder / "train", folder / "trainannot", (0, 10, *LABELS.ignore), ".png", ".png")
        return [{"data_root": str(folder)}]

    def __init__(self, data_root: str | Path = "data/camvid", split: Literal["train", "val", "test"] = "train") -> None:
        self.data_root = str(data_root)
        root = resolve(data_root)
        super().__init__(root / split, root / f"{split}annot", self.spec)
