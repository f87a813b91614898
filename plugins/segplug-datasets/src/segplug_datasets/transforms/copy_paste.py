"""Copy-paste: objects of another image pasted onto the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from segkernel.annotations import NonNegativeInt, PositiveInt, Probability
from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.interfaces.data import Transform
from segkernel.labels import IGNORE
from segkernel.sample import Sample, Size
from segplug_datasets.annotations.raster import Region
from segplug_datasets.transforms.layers import Layer, composite, object_regions, select_objects, window
from segplug_datasets.transforms.mix import Mixing, labels_of


class CopyPaste(Mixing):
    """Paste objects of another image, with their labels (Simple Copy-Paste; Ghiasi et al., 2021).

    Objects are the other sample's instance masks, but no crowds; without any, the connected regions of its classes.
    The paper jitters the scale of both images and flips them: do so with ``transforms`` for the other. A larger other
    image is cropped to a random window; a smaller one is placed at random, unscaled. Objects of the image that are
    fully occluded are dropped, boxes of partly occluded ones are shrunk to the visible part of their masks.

    Args:
        prob: Probability of pasting.
        classes: Class ids that may be pasted; None for all. An instance's class is that of most of its pixels.
        max_num_pasted: Maximum number of pasted objects; the number is drawn from 1 to this.
        min_area: Least area of a region in pixels; does not apply to instances.
        transforms: Applied to the other sample first.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When a sample has no labels, or they differ in channels, type or fields.
    """

    conformance: ClassVar = {"prob": 1.0, "classes": [3, 7]}

    def __init__(
        self,
        prob: Probability = 0.5,
        classes: Sequence[NonNegativeInt] | None = None,
        max_num_pasted: PositiveInt = 100,
        min_area: NonNegativeInt = 64,
        transforms: Sequence[Transform] = (),
    ) -> None:
        super().__init__(prob, transforms)
        if max_num_pasted < 1:
            raise UsageError(f"max_num_pasted must be at least 1, not {max_num_pasted}")
        self.classes, self.max_num_pasted, self.min_area = classes, max_num_pasted, min_area

    def fit(self, other: Sample, size: Size, rng: np.random.Generator) -> Sample:
        return window(other, size, rng)

    def mixed(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        labels = labels_of(other, "CopyPaste")
        mask, regions = np.zeros(labels.shape, bool), object_regions(other)
        if regions is not None:
            crowd = other["crowd"].array if "crowd" in other else np.zeros(0, bool)
            crowds = set(np.flatnonzero(crowd).tolist())
            wanted = [n for n, region in enumerate(regions) if n not in crowds and self._wanted(labels, region)]
            other = select_objects(other, np.array(self._chosen(wanted, rng), np.intp))
            for region in object_regions(other) or ():
                region.paint(mask, True)
        else:
            for place, components, number in self._chosen(self._regions(labels), rng):
                mask[place] |= components[place] == number
        top, left = (int(rng.integers(edge - inner + 1)) for edge, inner in zip(sample.size, other.size))
        return composite([Layer(sample), Layer(other, top, left, mask)], sample.size)

    def _chosen(self, objects: Sequence[Any], rng: np.random.Generator) -> list[Any]:
        count = int(rng.integers(1, min(len(objects), self.max_num_pasted) + 1)) if objects else 0
        return [objects[number] for number in sorted(rng.permutation(len(objects))[:count])]

    def _wanted(self, labels: np.ndarray, region: Region) -> bool:
        counts = np.bincount(labels[region.window][region.mask], minlength=256)
        return bool(counts.any()) and (self.classes is None or int(counts.argmax()) in self.classes)

    def _regions(self, labels: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray, int]]:
        """Return the connected regions that are large enough: bounding window, map (H, W) and number in it."""
        classes = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE])
        regions = []
        for class_id in classes if self.classes is None else np.intersect1d(classes, self.classes):
            mask = (labels == class_id).astype(np.uint8)
            count, components, stats, _ = opencv().connectedComponentsWithStats(mask)
            for number in range(1, count):
                left, top, width, height, area = stats[number]
                if area >= self.min_area:
                    place = slice(top, top + height), slice(left, left + width)
                    regions.append((place, components, number))
        return regions
