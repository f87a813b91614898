"""Cityscapes: street scenes of 50 cities, 2048 x 1024, 19 classes (Cordts et al., 2016).

And two night-time test sets with its classes. ``seg-kernel data prepare cityscapes`` makes the label files. Homepages
with the terms of use: www.cityscapes-dataset.com, for non-commercial research, after registration;
www.trace.ethz.ch/publications/2019/GCMA_UIoU (Dark Zurich); people.ee.ethz.ch/~daid/NightDriving (Nighttime Driving).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typing_extensions import Unpack

from segkernel.errors import DataError
from segkernel.labels import IGNORE
from segkernel.sample import Sample
from segplug_datasets.annotations.numbered import numbered_regions
from segplug_datasets.annotations.objects import Instances, Shape, object_fields
from segplug_datasets.files import BaseSegArguments, BaseSegDataset, DataPrefix
from segplug_datasets.label_reader import read_annotation
from segplug_datasets.label_spec import LabelSpec

LABELS = LabelSpec(
    classes=(
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ),
    palette=(
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
        *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
        *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    ),
)


_THINGS = dict(enumerate(LABELS.classes[11:16], 24)) | dict(enumerate(LABELS.classes[16:], 31))
"""Names of the classes whose objects are told apart, by their ids in ``instanceIds`` files."""


class CityscapesDataset(BaseSegDataset):
    """Cityscapes with ``labelTrainIds`` label files (0 to 18, 255 ignored), one folder per city.

    With ``instances``, samples also have [the objects](data.md#objects) of the files ``..._gtFine_instanceIds.png``;
    groups, whose objects are not told apart, are crowds. For a model of instances select the eight classes that have
    objects: ``metainfo: {classes: [person, rider, car, truck, bus, train, motorcycle, bicycle]}``.

    Args:
        data_root: Root folder of the data set.
        data_prefix: Folders under ``data_root``; the training set's by default.
        instances: Adds the fields of objects: with ``polygons``, with ``masks`` as bitmaps, or with ``boxes`` only;
            None adds none.
        options: Classes, suffixes and so on: the arguments of `BaseSegDataset`.

    Raises:
        DataError: When a folder is missing or empty, or files are unpaired.
        UsageError: When ``metainfo`` has a class that the data set does not have.
    """

    spec = LABELS
    root = "data/cityscapes"
    prefix = DataPrefix(img_path="leftImg8bit/train", seg_map_path="gtFine/train")
    suffixes = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")

    def __init__(
        self,
        data_root: str | Path | None = None,
        data_prefix: DataPrefix | None = None,
        instances: Instances | None = None,
        **options: Unpack[BaseSegArguments],
    ) -> None:
        super().__init__(data_root, data_prefix, **options)
        self._instances = instances

    def _add_objects(self, sample: Sample, mask_path: str) -> None:
        if self._instances is not None:
            path = f"{mask_path.removesuffix(self.folders.mask_suffix)}_gtFine_instanceIds.png"
            sample.fields |= object_fields(self._objects(sample, path), sample.size, self._instances)

    def _objects(self, sample: Sample, path: str) -> list[tuple[Shape, int]]:
        """Return the objects and their class ids; a value is the class's id, or 1000 times it and the object's."""
        raw = read_annotation(sample, path)
        if raw.ndim != 2:
            raise DataError("instance ids must be one number for each pixel", path)
        objects = []
        for value, region in numbered_regions(raw).items():
            name = _THINGS.get(value // 1000 if value >= 1000 else value)
            if name is not None:
                train_id = np.array([[LABELS.classes.index(name)]])
                class_id = int(self.labels.encode(train_id, path)[0, 0])
                objects += [(Shape(name, region, crowd=value < 1000), class_id)] if class_id != IGNORE else []
        return objects


class DarkZurichDataset(BaseSegDataset):
    """Dark Zurich: Zurich by night, 1920 x 1080, the 50 validation images that have labels (Sakaridis et al., 2019)."""

    spec = LABELS
    root = "data/dark_zurich"
    prefix = DataPrefix(img_path="rgb_anon/val/night/GOPR0356", seg_map_path="gt/val/night/GOPR0356")
    suffixes = ("_rgb_anon.png", "_gt_labelTrainIds.png")


class NightDrivingDataset(BaseSegDataset):
    """Nighttime Driving: 50 test images of 1920 x 1080 with coarse labels (Dai and Van Gool, 2018)."""

    spec = LABELS
    root = "data/NighttimeDrivingTest"
    prefix = DataPrefix(img_path="leftImg8bit/test/night", seg_map_path="gtCoarse_daytime_trainvaltest/test/night")
    suffixes = ("_leftImg8bit.png", "_gtCoarse_labelTrainIds.png")
