"""Transforms for the objects of an image: what is too small is left out, long images are cropped around them."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from segkernel.annotations import NonNegative, NonNegativeInt, Positive
from segkernel.errors import UsageError
from segkernel.sample import Sample, Size
from segplug_datasets import geometry
from segplug_datasets.fields import Boxes
from segplug_datasets.transforms.layers import object_regions, select_objects


class FilterAnnotations:
    """Leave out small objects; a sample without objects is rejected, so that training takes another one in its place.

    Needs the field ``boxes``, as data sets with ``instances`` have it; a sample without it stays as it is. Crowds are
    kept, but do not count.

    Args:
        min_gt_bbox_wh: Boxes must be wider and higher than this, in pixels.
        min_gt_mask_area: Masks must have at least this number of pixels; 0 does not draw them.
        recompute_boxes: Whether boxes are put around the pixels of the masks; after a rotation or a crop they may be
            too large. Without masks they stay.
        min_keypoints: Least number of labelled keypoints in an image; with fewer the sample is rejected.
        reject_empty: Whether a sample without objects is rejected.
    """

    needs: ClassVar[int] = 0

    def __init__(
        self,
        min_gt_bbox_wh: tuple[NonNegative, NonNegative] = (1, 1),
        min_gt_mask_area: NonNegativeInt = 0,
        recompute_boxes: bool = False,
        min_keypoints: NonNegativeInt = 0,
        reject_empty: bool = True,
    ) -> None:
        self.min_gt_bbox_wh, self.min_gt_mask_area = min_gt_bbox_wh, min_gt_mask_area
        self.recompute_boxes, self.min_keypoints, self.reject_empty = recompute_boxes, min_keypoints, reject_empty

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample | None:
        if "boxes" not in sample:
            return sample
        if self.recompute_boxes or self.min_gt_mask_area:
            sample = self._by_masks(sample)
        boxes = sample["boxes"].array
        sides = boxes[:, 2:] - boxes[:, :2]
        sample = select_objects(sample, (sides > self.min_gt_bbox_wh).all(1))
        return None if self._is_rejected(sample) else sample

    def _by_masks(self, sample: Sample) -> Sample:
        found = object_regions(sample)
        if found is None:
            return sample
        regions = [region.cropped() for region in found]
        if self.recompute_boxes:
            boxes = [region.box or (0, 0, 0, 0) for region in regions]
            sample["boxes"] = Boxes(np.array(boxes, np.float32).reshape(-1, 4))
        return select_objects(sample, np.array([region.area >= self.min_gt_mask_area for region in regions], bool))

    def _is_rejected(self, sample: Sample) -> bool:
        crowds = int(sample["crowd"].array.sum()) if "crowd" in sample else 0
        if self.min_keypoints and (sample["keypoints"].array[..., 2] > 0).sum() < self.min_keypoints:
            return True
        return self.reject_empty and sample["boxes"].count == crowds


class AspectCrop:
    """Crop images that are too long to a given aspect ratio, around their objects (Detectron's ``ASPECT_CROPPING``).

    The window is as wide, or as high, as the image. It holds all boxes if they fit, else one drawn at random, or a part
    of that; where there are none it is anywhere.

    Args:
        low: Lowest width over height.
        high: Highest width over height.

    Raises:
        UsageError: When ``low`` is above ``high``.
    """

    needs: ClassVar[int] = 0
    conformance: ClassVar = {"low": 0.9, "high": 1.1}

    def __init__(self, low: Positive = 0.5, high: Positive = 2.0) -> None:
        if not 0 < low <= high:
            raise UsageError(f"AspectCrop needs 0 < low <= high, not {low} and {high}")
        self.low, self.high = low, high

    def __call__(self, sample: Sample, rng: np.random.Generator, *more: Sample) -> Sample:
        (height, width), goal = sample.size, self.target(sample.size)
        if goal == sample.size:
            return sample
        top = self._start(sample, height, goal[0], 1, rng)
        left = self._start(sample, width, goal[1], 0, rng)
        return sample.apply(geometry.Crop(top, left, *goal))

    def target(self, size: Size) -> Size:
        """Return the (height, width) that an image of ``size`` gets."""
        height, width = size
        return min(height, math.ceil(width / self.low)), min(width, math.ceil(height * self.high))

    @staticmethod
    def _start(sample: Sample, length: int, goal: int, axis: int, rng: np.random.Generator) -> int:
        """Return the first row or column of the window."""
        boxes = sample["boxes"].array if "boxes" in sample else np.zeros((0, 4))
        low, high = 0, length - goal
        if len(boxes):
            if boxes[:, axis + 2].max() - boxes[:, axis].min() > goal - 1:  # not all of them fit
                boxes = boxes[rng.integers(len(boxes))][None]
            first, last = math.floor(boxes[:, axis].min()), math.ceil(boxes[:, axis + 2].max())
            low, high = sorted((max(last - goal, 0), min(first, high)))
        return int(rng.integers(low, high + 1))
