"""Change detection between two images of one place: generic folders, and LEVIR-CD, buildings over 5 to 14 years."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import FileName
from segkernel.errors import DataError, UsageError
from segkernel.sample import RasterField, Sample
from segplug_datasets import image
from segplug_datasets.example import write_example
from segplug_datasets.files import BaseSegDataset, DataPrefix
from segplug_datasets.label_spec import LabelSpec
from segplug_datasets.listing import find_files, require_files, resolve
from segplug_datasets.mapping import Metainfo

SECOND = "img2"
"""The field of the second image, as `ConcatCDInput` calls it."""


@dataclass
class SecondImage(RasterField):
    """Another image of the same pixels, (H, W, C), uint8 as a rule."""

    interpolation: ClassVar[int] = 1  # linear
    scalar: ClassVar[bool] = False


class PairReader:
    """Reads two images of one place as one sample.

    Args:
        read: Reads one of them, a path or an array.
    """

    takes_pairs = True

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __call__(self, source: Any) -> Sample:
        if not (isinstance(source, tuple) and len(source) == 2):
            hint = "give (before, after), or seg-kernel predict MODEL BEFORE... --second AFTER"
            raise UsageError(f"the model compares two images of one place, but got one\n    {hint}")
        first, second = map(self.read, source)
        return with_second(Sample(image=first), second, *source)


def with_second(sample: Sample, second: np.ndarray, source: Any, other: Any) -> Sample:
    """Add the second image to a sample.

    Raises:
        DataError: When it has another shape than the first.
    """
    if second.shape != sample.image.shape:
        there, here = second.shape[:2], sample.size
        name = None if isinstance(other, np.ndarray) else other
        which = "" if isinstance(source, np.ndarray) else f": {source}"
        raise DataError(f"{there} (height, width), but the first image is {here}{which}", name)
    sample[SECOND] = SecondImage(second)
    return sample


class PairPrefix(DataPrefix, total=False):
    """Folders under ``data_root``: of the first images, of the second ones, and of the label files."""

    img_path2: FileName


class BaseCDDataset(BaseSegDataset):
    """Pairs of images of one place, before and after, and change masks: any set in three folders.

    The second image is the field ``img2``; `ConcatCDInput` makes one image of six channels of the two.

    Args:
        data_root: Root folder of the data set.
        data_prefix: Folders under ``data_root``; ``A``, ``B`` and ``label`` by default.
        ann_file: Text file with one name per line, under ``data_root``; all files when empty.
        img_suffix: Suffix of the first images' file names.
        img_suffix2: Suffix of the second images' file names; the first ones' when None.
        seg_map_suffix: Suffix of the label file names.
        metainfo: Classes and colours; ``unchanged`` and ``changed`` by default. Published sets: a selection of theirs.
        reduce_zero_label: Whether classes start at 1 in the files and 0 is ignored.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
    """

    spec = LabelSpec(classes=("unchanged", "changed"), palette=((0, 0, 0), (255, 255, 255)))
    root = ""
    prefix = PairPrefix(img_path="A", img_path2="B", seg_map_path="label")
    suffixes = (".jpg", ".png")
    own_classes: ClassVar[bool] = True
    """Whether ``metainfo`` defines the classes, instead of selecting among the set's."""

    @classmethod
    def conformance(cls, folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        prefix: Any = cls.prefix
        for images in (prefix["img_path"], prefix["img_path2"]):
            write_example(folder / images, folder / prefix["seg_map_path"], (0, 1), *cls.suffixes)
        return [{"data_root": str(folder)}]

    @classmethod
    def image_reader(cls) -> PairReader:
        """Return a reader of image pairs, as in the samples."""
        return PairReader(_read_one)

    def __init__(
        self,
        data_root: str | Path | None = None,
        data_prefix: PairPrefix | None = None,
        ann_file: FileName = "",
        img_suffix: str | None = None,
        img_suffix2: str | None = None,
        seg_map_suffix: str | None = None,
        metainfo: Metainfo | None = None,
        reduce_zero_label: bool | None = None,
        indices: int | Sequence[int] | None = None,
    ) -> None:
        if self.own_classes and metainfo and metainfo.get("classes"):
            spec = LabelSpec(tuple(metainfo["classes"]), tuple(metainfo.get("palette") or ()))
            self.spec = spec  # type: ignore[misc]  # of this instance alone
        super().__init__(
            data_root=data_root,
            data_prefix=data_prefix,
            ann_file=ann_file,
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            metainfo=metainfo,
            reduce_zero_label=reduce_zero_label,
            indices=indices,
        )
        prefix: Any = data_prefix or self.prefix
        folder = resolve(self.data_root, prefix.get("img_path2", ""))
        suffix = img_suffix2 or img_suffix or self.suffixes[0]
        found, names = find_files(folder, (suffix,)), [name for name, _, _ in self._files]
        require_files(names, found, f"without a second image in {folder}")
        if not ann_file and indices is None:
            require_files(sorted(found), set(names), f"of second images in {folder} without a first one")
        self._seconds = [found[name] for name in names]

    def __getitem__(self, index: int) -> Sample:
        sample, path = super().__getitem__(index), self._seconds[index]
        sample.meta["path2"] = path
        return with_second(sample, image.read(path), sample.meta["path"], path)


def _read_one(source: Any) -> np.ndarray:
    return source if isinstance(source, np.ndarray) else image.read(source)


class LEVIRCDDataset(BaseCDDataset):
    """LEVIR-CD: a place before and after, tiles of 256 x 256; changed pixels are 1 or 255 in the files.

    ``seg-kernel data prepare levircd`` cuts them (Chen and Shi, 2020). Homepage: justchenhao.github.io/LEVIR, for
    non-commercial research.
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
    own_classes = False
