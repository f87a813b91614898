"""COCO keypoints of people, 2014 and 2017 (Lin et al., 2014; cocodataset.org/#keypoints-2020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkernel.errors import DataError
from segkernel.sample import LabelMap, Sample, WeightMap
from segplug_datasets.annotations.coco import CocoInstanceDataset, box_of
from segplug_datasets.annotations.records import as_data_error, decode_texts, scan_object
from segplug_datasets.annotations.shapes import count_empty
from segplug_datasets.fields import Boxes, InstanceMasks, Keypoints
from segplug_datasets.listing import resolve


class CocoKeypointDataset(CocoInstanceDataset):
    """Images with people: their pixels, boxes and keypoints.

    Fields of a sample with N people (without crowds, but with people that have no labelled keypoints):

    - ``seg``: background and person; pixels of crowds are ignored.
    - ``keypoints``: (N, K, 3) x, y and COCO's visibility (0 not labelled, 1 labelled but hidden, 2 visible). COCO's
      coordinates are pixel indices, so 0.5 is added: (0, 0) is the outer corner of the first pixel here.
    - ``boxes``: (N, 4) left, top, right, bottom.
    - ``instances``: (H, W, N), one mask for each.
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
        instances: Whether samples have the field ``instances``, which takes a byte per pixel and person.
        unannotated: Whether images without people are background, ignored, or skipped.
        indices: The first N samples for N, the last N for -N, those listed for a list; all when None.

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
        instances: bool = True,
        unannotated: Literal["background", "ignored", "skipped"] = "background",
        indices: int | Sequence[int] | None = None,
    ) -> None:
        path = resolve(data_root, ann_file)
        category = _category(path)
        with as_data_error(path):
            self.keypoint_names = tuple(str(name) for name in category["keypoints"])
            self.skeleton = [(int(a) - 1, int(b) - 1) for a, b in category.get("skeleton") or ()]
        self._person, self._weights = category.get("id"), weights
        self._without, self._instances = without_keypoints, instances
        super().__init__(
            *(ann_file, images, data_root, ids),
            boxes="filled",
            classes=[str(category.get("name"))],
            unannotated=unannotated,
            indices=indices,
        )

    def _annotate(self, sample: Sample, key: Any) -> None:
        records = self._load(key)
        shapes = self._shapes_of(sample, key, records)
        pairs = [(one, shape) for one, shape in zip(records, shapes) if one.get("category_id") == self._person]
        people = [(one, shape) for one, shape in pairs if not one.get("iscrowd")]
        unmarked = [shape for one, shape in people if not _has_keypoints(one)]
        for shape in unmarked:
            shape.ignored = self._without == "ignored"
        count_empty(sample, shapes, self._source())
        sample["seg"] = LabelMap(self._paint(shapes, sample.size))
        points = [self._points(one) for one, _ in people]
        sample["keypoints"] = Keypoints(np.array(points, np.float32).reshape(-1, len(self.keypoint_names), 3))
        sample["boxes"] = Boxes(np.array([_corners(one) for one, _ in people], np.float32).reshape(-1, 4))
        if self._instances:
            masks = np.zeros((*sample.size, len(people)), np.uint8)
            for number, (_, shape) in enumerate(people):
                shape.region.paint(masks[..., number], 1)
            sample["instances"] = InstanceMasks(masks)
        if self._weights is not None:
            weights = np.ones(sample.size, np.float32)
            for shape in [shape for one, shape in pairs if one.get("iscrowd")] + unmarked:
                shape.region.paint(weights, 0)
            for shape in [shape for one, shape in people if _has_keypoints(one)]:
                shape.region.paint(weights, 1)
            sample[self._weights] = WeightMap(weights)

    def _points(self, annotation: dict[str, Any]) -> np.ndarray:
        """Return the keypoints (K, 3) of a person, zeros if none are labelled."""
        count = len(self.keypoint_names)
        try:
            points = np.array(annotation.get("keypoints") or [0] * (3 * count), np.float32).reshape(count, 3)
        except (TypeError, ValueError):
            raise DataError(
                f"the keypoints of annotation {annotation.get('id')} are not {count} (x, y, v) triples",
                self._records.path,
            ) from None
        points[points[:, 2] > 0, :2] += 0.5
        return points


def _category(path: Path) -> dict[str, Any]:
    """Return the category of a file that has keypoints."""
    categories = decode_texts(scan_object(path, {"categories": dict})["categories"][1])
    found = next((one for one in categories if one.get("keypoints")), None)
    if found is None:
        raise DataError("no category in this file has 'keypoints'", path)
    return found


def _has_keypoints(annotation: dict[str, Any]) -> bool:
    """Whether a person has a labelled keypoint."""
    return any((annotation.get("keypoints") or ())[2::3])


def _corners(annotation: dict[str, Any]) -> list[float]:
    left, top, width, height = box_of(annotation, f"annotation {annotation.get('id')}")
    return [left, top, left + width, top + height]
