"""The objects of any data set as COCO's JSON (cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from segkernel.errors import DataError, UsageError
from segkernel.files import replacing
from segkernel.interfaces.data import Dataset
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.raster import Region
from segplug_datasets.annotations.rle import to_coco
from segplug_datasets.fields import Polygons
from segplug_datasets.transforms.layers import object_regions


def write_coco(
    dataset: Dataset,
    path: str | Path,
    images: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the objects of a data set as a COCO file; return the numbers of ``images``, ``objects`` and the folder.

    Polygons stay polygons, bitmaps and crowds become run lengths. Ids of images and categories are those of the data
    set, if it has them; else they count from 1.

    Args:
        dataset: A data set whose samples have the fields of objects, see `segplug_datasets.annotations.objects`.
        path: The file.
        images: Folder to which the file names of images are relative; the one that holds all of them when None.
        progress: Called with the number of finished samples and the total.

    Raises:
        UsageError: When the samples have no boxes.
        DataError: When a sample cannot be read, an image is not under ``images``, or the file cannot be written.
    """
    writer = _Writer(dataset)
    try:
        with replacing(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write('{"annotations": [')
            writer.annotations(file, progress)
            folder = _folder(writer.paths) if images is None else Path(images)
            head = {"images": writer.images(folder), "categories": writer.categories()}
            file.write("],\n" + json.dumps(head, ensure_ascii=False)[1:] + "\n")
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", path) from error
    return {"images": len(writer.entries), "objects": writer.objects, "folder": folder}


class _Writer:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.entries, self.paths, self.objects = dataset, list[dict[str, Any]](), list[str](), 0
        self._has_ids = hasattr(dataset, "category_ids")
        self._ids = list(getattr(dataset, "category_ids", None) or range(1, len(dataset.classes) + 1))
        self._with_keypoints: set[int] = set()

    def annotations(self, file: TextIO, progress: Callable[[int, int], None] | None) -> None:
        for index in range(len(self.dataset)):
            sample = self.dataset[index]
            if "boxes" not in sample or "classes" not in sample:
                raise UsageError("its samples have no objects: set 'instances: polygons' in a data set that has them")
            image_id = sample.meta["image_id"] if self._has_ids else index + 1
            height, width = sample.size
            self.paths.append(str(sample.meta["path"]))
            self.entries.append({"id": image_id, "height": height, "width": width})
            for record in self._records(sample):
                file.write(",\n" if self.objects else "\n")
                self.objects += 1
                file.write(json.dumps({"id": self.objects, "image_id": image_id, **record}))
            if progress:
                progress(index + 1, len(self.dataset))

    def _records(self, sample: Sample) -> Iterator[dict[str, Any]]:
        """Yield the annotations of a sample, without ids."""
        boxes, classes = sample["boxes"].array.astype(float).tolist(), sample["classes"].array.tolist()
        crowds = sample["crowd"].array.tolist() if "crowd" in sample else [False] * len(classes)
        segmentations = _segmentations(sample, crowds)
        for number, ((left, top, right, bottom), class_id, crowd) in enumerate(zip(boxes, classes, crowds)):
            sides = right - left, bottom - top
            area = float(sample["area"].array[number]) if "area" in sample else sides[0] * sides[1]
            record = {"category_id": self._ids[class_id], "bbox": _rounded([left, top, *sides]), "area": area}
            record |= {"iscrowd": int(crowd), **next(segmentations)}
            if "keypoints" in sample:
                record |= self._keypoints(sample["keypoints"].array[number], class_id)
            yield record

    def _keypoints(self, points: np.ndarray, class_id: int) -> dict[str, Any]:
        labelled = points[:, 2] > 0
        if labelled.any():
            self._with_keypoints.add(class_id)
        indices = np.where(labelled[:, None], points[:, :2].astype(float) - 0.5, 0)  # COCO's are indices of pixels
        flat = np.concatenate([indices, points[:, 2:]], 1)
        return {"keypoints": _rounded(flat.ravel()), "num_keypoints": int(labelled.sum())}

    def images(self, folder: Path) -> list[dict[str, Any]]:
        outside = [path for path in self.paths if not Path(path).is_relative_to(folder)]
        if outside:
            raise DataError(f"{len(outside)} images are not in this folder, as {outside[0]}", folder)
        names = [Path(path).relative_to(folder).as_posix() for path in self.paths]
        return [{**entry, "file_name": name} for entry, name in zip(self.entries, names)]

    def categories(self) -> list[dict[str, Any]]:
        """Return the classes that have an id; a background has none."""
        listed = [(n, number) for n, number in enumerate(self._ids) if number is not None]
        categories = [{"id": number, "name": self.dataset.classes[n]} for n, number in listed]
        names, skeleton = getattr(self.dataset, "keypoint_names", ()), getattr(self.dataset, "skeleton", ())
        pairs = [[a + 1, b + 1] for a, b in skeleton]
        for category, (class_id, _) in zip(categories, listed):
            if class_id in self._with_keypoints:
                category |= {"keypoints": list(names), "skeleton": pairs}
        return categories


def _segmentations(sample: Sample, crowds: Sequence[bool]) -> Iterator[dict[str, Any]]:
    """Yield the ``segmentation`` of each object; nothing where there are no masks."""
    polygons = next((field for field in sample.fields.values() if isinstance(field, Polygons)), None)
    rings = polygons.polygons() if polygons is not None else None
    regions = object_regions(sample) if rings is None or any(crowds) else None
    for number, region in enumerate(regions or repeat(None)):
        if rings is not None and not crowds[number]:
            yield {"segmentation": [_rounded(ring.ravel()) for ring in rings[number] if len(ring) >= 3]}
        else:
            yield {} if region is None else {"segmentation": to_coco(_drawn(region, sample.size))}


def _drawn(region: Region, size: Size) -> np.ndarray:
    """Return the mask (H, W) bool of a region."""
    mask = np.zeros(size, bool)
    region.paint(mask, True)
    return mask


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]


def _folder(paths: Sequence[str]) -> Path:
    """Return the folder that holds all files."""
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths])) if paths else Path()
