"""COCO keypoints of people, 2014 and 2017 (Lin et al., 2014; cocodataset.org/#keypoints-2020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkernel.errors import DataError
from segkernel.sample import LabelMap, Sample, WeightMap
from segplug_datasets.annotations.coco import CocoInstanceDataset
from segplug_datasets.annotations.objects import Instances, Shape
from segplug_datasets.annotations.records import decode_texts, scan_object
from segplug_datasets.annotations.shapes import count_empty
from segplug_datasets.listing import resolve


class CocoKeypointDataset(CocoInstanceDataset):
    """Images with people: their pixels, boxes and keypoints.

    Fields of a sample with N people (with those that have no labelled keypoints, and with crowds on request):

    - ``seg``: background and person; pixels of crowds are ignored.
    - ``keypoints``: (N, K, 3) x, y and COCO's visibility (0 not labelled, 1 labelled but hidden, 2 visible). COCO's
      coordinates are pixel indices, so 0.5 is added: (0, 0) is the outer corner of the first pixel here.
    - ``boxes``, ``classes``, ``crowd``, ``area``, ``instances``: see `segplug_datasets.annotations.objects`.
    - ``keypoint_weight``: 0 on crowds and on people without labelled keypoints, which keypoint heads must not train on;
      1 elsewhere.

    ``keypoint_names`` and ``skeleton`` (pairs of indices from 0) come from the file.

    Args:
        ann_file: The JSON file, ``annotations/person_keypoints_train2017.json``, under ``data_root``.
        images: Folder of the images, under ``data_root``.
        data_root: Folder to which the other paths are relative.
        ids: Text file with the images to use, one per line, by id or by file name (the ``minival`` lists of 2014); all
            when None.
        weights: Name of the weight field; ``weight`` also applies it to the label map's loss; None omits it.
        without_keypoints: Whether people without labelled keypoints are ``person`` in ``seg``, or ignored.
        instances: Whether samples have the masks of people: as ``polygons``, or as ``masks`` (also for True), which
            take a byte per pixel and person.
        unannotated: Whether images without people are background, ignored, or skipped.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.
        background: Class of other pixels; None ignores them: ``person`` is class 0, as models of instances expect it.
        crowds: Whether crowds are listed in the fields of objects; ``crowd`` tells them apart.

    Raises:
        DataError: When files are missing or damaged, or no category has keypoints.
    """

    def __init__(
        self,
        ann_file: str | Path,
        images: str | Path = "",
        data_root: str | Path | None = None,
        ids: str | Path | None = None,
        weights: str | None = "keypoint_weight",
        without_keypoints: Literal["person", "ignored"] = "person",
        instances: bool | Instances = True,
        unannotated: Literal["background", "ignored", "skipped"] = "background",
        indices: int | Sequence[int] | None = None,
        background: str | None = "background",
        crowds: bool = False,
    ) -> None:
        category = _category(resolve(data_root, ann_file))
        self._person, self._weights = str(category.get("name")), weights
        self._without, self._crowds = without_keypoints, crowds
        super().__init__(
            *(ann_file, images, data_root, ids),
            boxes="filled",
            classes=[self._person],
            unannotated=unannotated,
            indices=indices,
            background=background,
            instances=("masks" if instances else "boxes") if isinstance(instances, bool) else instances,
        )

    def _add_fields(self, sample: Sample, shapes: Sequence[Shape]) -> None:
        persons = [shape for shape in shapes if shape.category == self._person]
        people = [shape for shape in persons if not shape.crowd]
        unmarked = [shape for shape in people if not _has_keypoints(shape)]
        for shape in unmarked:
            shape.ignored = self._without == "ignored"
        count_empty(sample, shapes, self._source())
        sample["seg"] = LabelMap(self._paint(shapes, sample.size))
        sample.fields |= self._object_fields(persons if self._crowds else people, sample.size)
        if self._weights is not None:
            weights = np.ones(sample.size, np.float32)
            for shape in [shape for shape in persons if shape.crowd] + unmarked:
                shape.region.paint(weights, 0)
            for shape in [shape for shape in people if _has_keypoints(shape)]:
                shape.region.paint(weights, 1)
            sample[self._weights] = WeightMap(weights)

    def _ignore(self, sample: Sample) -> None:
        super()._ignore(sample)
        if self._weights is not None:
            sample[self._weights] = WeightMap(np.zeros(sample.size, np.float32))


def _category(path: Path) -> dict[str, Any]:
    """Return the category of a file that has keypoints."""
    categories = decode_texts(scan_object(path, {"categories": dict})["categories"][1])
    found = next((one for one in categories if one.get("keypoints")), None)
    if found is None:
        raise DataError("no category in this file has 'keypoints'", path)
    return found


def _has_keypoints(shape: Shape) -> bool:
    """Whether a person has a labelled keypoint."""
    return shape.keypoints is not None and bool(shape.keypoints[:, 2].any())
