"""Change between two images of one place: LEVIR-CD, buildings over 5 to 14 years (Chen and Shi, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from segkernel import image
from segkernel.errors import DataError
from segkernel.interfaces.data import LabelSpec
from segkernel.sample import RasterField, Sample
from segplug_datasets.example import write_example
from segplug_datasets.files import BaseSegDataset, DataPrefix, find_files, refuse_missing

SECOND = "img2"
"""The field of the second image, as `ConcatCDInput` calls it."""


@dataclass
class SecondImage(RasterField):
    """Another image of the same pixels, (H, W, C), uint8 as a rule."""

    interpolation: ClassVar[int] = 1  # linear


class PairPrefix(DataPrefix, total=False):
    """Folders under ``data_root``: of the first images, of the second ones, and of the label files."""

    img_path2: str


class LEVIRCDDataset(BaseSegDataset):
    """LEVIR-CD: a place before and after, tiles of 256 x 256; what changed is 1, or 255, in the files.

    The second image is the field ``img2``; `ConcatCDInput` makes one image of six channels of the two.

    Args:
        data_root: Where the data set lies.
        data_prefix: Folders under it; the training set's when not given.
        ann_file: Text file with one name per line, under ``data_root``; all files when empty.
        img_suffix: End of the names of the first images.
        img_suffix2: End of the names of the second images.
        seg_map_suffix: What follows the name in the label file's.

    Raises:
        DataError: When a folder is missing or empty, or files have no partner.
    """

    spec = LabelSpec(
        classes=("background", "changed"),
        palette=((0, 0, 0), (255, 255, 255)),
        ignore=(),
        values={0: 0, 1: 1, 255: 1},
    )
    root = "data/LEVIRCD"
    prefix = PairPrefix(img_path="train/A", img_path2="train/B", seg_map_path="train/label")
    suffixes = (".png", ".png")

    @classmethod
    def conformance(cls, folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        for images in ("train/A", "train/B"):
            write_example(folder / images, folder / "train/label", (0, 255), *cls.suffixes)
        return [{"data_root": str(folder)}]

    def __init__(
        self,
        data_root: str | Path | None = None,
        data_prefix: PairPrefix | None = None,
        ann_file: str = "",
        img_suffix: str | None = None,
        img_suffix2: str | None = None,
        seg_map_suffix: str | None = None,
    ) -> None:
        super().__init__(data_root, data_prefix, ann_file, img_suffix, seg_map_suffix)
        prefix: Any = data_prefix or self.prefix
        folder = Path(self.data_root, prefix.get("img_path2", ""))
        found, names = find_files(folder, (img_suffix2 or self.suffixes[0],)), [name for name, _, _ in self._files]
        refuse_missing(names, found, f"without a second image in {folder}")
        if not ann_file:
            refuse_missing(sorted(found), set(names), f"of second images in {folder} without a first one")
        self._seconds = [found[name] for name in names]

    def __getitem__(self, index: int) -> Sample:
        sample, path = super().__getitem__(index), self._seconds[index]
        second = image.read(path)
        if second.shape != sample.image.shape:
            there, here = second.shape[:2], sample.size
            raise DataError(f"{there} (height, width), the first image {here}: {sample.meta['path']}", path)
        sample[SECOND] = SecondImage(second)
        sample.meta["path2"] = path
        return sample
