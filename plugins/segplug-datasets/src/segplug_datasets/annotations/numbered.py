"""Masks whose values number the objects of an image, and Penn-Fudan's pedestrians, which have them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import Unpack

from segkernel.annotations import FileName
from segkernel.errors import DataError
from segkernel.sample import Sample
from segplug_datasets import image
from segplug_datasets.annotations.objects import check_memory
from segplug_datasets.annotations.raster import Region
from segplug_datasets.annotations.shapes import (
    EXAMPLE,
    AnnotationIndex,
    Shape,
    ShapeDataset,
    ShapeOptions,
    example_images,
)
from segplug_datasets.label_reader import read_annotation
from segplug_datasets.listing import IMAGE_SUFFIXES, find_files, require_files, resolve


class NumberedMaskDataset(ShapeDataset):
    """Images with masks in which 0 is the background, and every other value an object; all objects have one class.

    Args:
        images: Folder of the images, searched recursively.
        masks: Folder of the masks, with the same layout and names.
        data_root: Folder to which the other paths are relative.
        mask_suffix: Suffix of the mask file names, which replaces that of the image.
        category: Name of the objects' class.
        options: Classes and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged, or a mask is not of whole numbers.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        example_images(folder / "images", EXAMPLE)
        for number, (name, size) in enumerate(EXAMPLE.items()):
            mask = np.zeros(size, np.uint8)
            mask[2:6, 3:7], mask[4:8, 5:14] = 1, 2 + number
            image.write_mask(folder / "masks" / name, mask)
        arguments = {"data_root": str(folder), "images": "images", "masks": "masks", "mask_suffix": ".png"}
        return [arguments, arguments | {"instances": "polygons", "background": None}]

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        data_root: str | Path | None = None,
        mask_suffix: FileName = ".png",
        category: str = "object",
        **options: Unpack[ShapeOptions],
    ) -> None:
        root = resolve(data_root)
        self.data_root, self._category = str(root), category
        self._where, self._suffix = (resolve(root, images), resolve(root, masks)), str(mask_suffix)
        super().__init__(**options)

    def _source(self) -> Path:
        return self._where[1]

    def _open(self) -> AnnotationIndex:
        images, masks = self._where
        found, files = find_files(images, IMAGE_SUFFIXES), find_files(masks, (self._suffix,))
        names, start = sorted(found), len(os.path.join(images, ""))
        require_files(names, files, f"without a mask NAME{self._suffix} in {masks}")
        keys = [files[name] for name in names]
        listed = [found[name][start:] for name in names]
        return AnnotationIndex(images, listed, keys, [True] * len(names), [self._category], str(masks))

    def _shapes(self, sample: Sample, key: str) -> Iterable[Shape]:
        raw = read_annotation(sample, key)
        if raw.ndim != 2:
            raise DataError("a mask must have a number for each pixel, this one has colours", key)
        return (Shape(self._category, region) for region in numbered_regions(raw).values())


class PennFudanDataset(NumberedMaskDataset):
    """Penn-Fudan pedestrians: 170 images with 423 masks (Wang et al., Object detection combining recognition, 2007).

    Homepage: www.cis.upenn.edu/~jshi/ped_html.

    Args:
        data_root: The folder ``PennFudanPed`` of the download.
        images: Folder of the images in it.
        masks: Folder of the masks in it.
        mask_suffix: Suffix of the mask file names.
        options: Classes and so on: the arguments of `ShapeDataset`.

    Raises:
        DataError: When files are missing or damaged.
        UsageError: When ``classes`` or ``others`` has an unknown name.
    """

    fixed_arguments = frozenset({"category"})

    @staticmethod
    def conformance(folder: Path) -> list[dict[str, Any]]:
        """Write a tiny data set into ``folder`` and return the arguments that read it."""
        NumberedMaskDataset.conformance(folder)
        return [{"data_root": str(folder), "images": "images", "masks": "masks", "mask_suffix": ".png"}]

    def __init__(
        self,
        data_root: str | Path | None = "data/PennFudanPed",
        images: str | Path = "PNGImages",
        masks: str | Path = "PedMasks",
        mask_suffix: FileName = "_mask.png",
        **options: Unpack[ShapeOptions],
    ) -> None:
        super().__init__(images, masks, data_root, mask_suffix, "pedestrian", **options)


def numbered_regions(raw: np.ndarray) -> dict[int, Region]:
    """Return the pixels of each value of a mask (H, W) but 0, ascending by value."""
    rows, columns = np.nonzero(raw)
    values = raw[rows, columns]
    order = np.argsort(values, kind="stable")
    rows, columns, values = rows[order], columns[order], values[order]
    starts = np.flatnonzero(np.diff(values.astype(np.int64), prepend=0))
    regions, taken = {}, 0
    for part in np.split(np.arange(len(values)), starts)[1:]:
        top, left = int(rows[part].min()), int(columns[part].min())
        mask = np.zeros((int(rows[part].max()) + 1 - top, int(columns[part].max()) + 1 - left), bool)
        mask[rows[part] - top, columns[part] - left] = True
        regions[int(values[part[0]])] = Region(top, left, mask)
        taken += mask.nbytes
        check_memory(taken, len(regions))
    return regions
