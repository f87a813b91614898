"""Objects of another image laid over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from segkernel.errors import UsageError
from segkernel.image import opencv
from segkernel.interfaces.data import IGNORE, Transform
from segkernel.sample import InstanceMasks, Sample, Size
from segplug_datasets.transforms.layers import Layer, lay, window, with_objects
from segplug_datasets.transforms.mix import Mixing, labels_of


class CopyPaste(Mixing):
    """Paste some objects of another image, labels and all (Ghiasi et al., 2021).

    Objects are the other sample's instance masks; without any, the connected regions of its classes. The paper jitters
    the scale of both images and flips them: do so with ``transforms`` for the other. An other image that is larger is
    cut to a random window; a smaller one is laid at a random place, as it is. Objects of the image that are covered
    wholly are dropped, boxes of those covered in part are drawn anew around what is left of their masks.

    Args:
        prob: Of pasting.
        classes: Class ids of what may be pasted; None for all. An instance's class is the one most of it has.
        max_num_pasted: Most objects; how many, from 1 on, is drawn.
        min_area: Pixels that a region has at least; smaller instances are pasted too.
        transforms: Applied to the further sample first.

    Raises:
        UsageError: When an argument is out of range.
        DataError: When a sample has no labels, or they differ in channels, type or fields.
    """

    conformance: ClassVar = {"prob": 1.0, "classes": [3, 7]}

    def __init__(
        self,
        prob: float = 0.5,
        classes: Sequence[int] | None = None,
        max_num_pasted: int = 100,
        min_area: int = 64,
        transforms: Sequence[Transform] = (),
    ) -> None:
        super().__init__(prob, transforms)
        if max_num_pasted < 1:
            raise UsageError(f"max_num_pasted is at least 1, not {max_num_pasted}")
        self.classes, self.max_num_pasted, self.min_area = classes, max_num_pasted, min_area

    def fit(self, other: Sample, size: Size, rng: np.random.Generator) -> Sample:
        return window(other, size, rng)

    def mixed(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        labels = labels_of(other, "CopyPaste")
        instances = next((other[name].array for name in other if isinstance(other[name], InstanceMasks)), None)
        if instances is not None:
            chosen = self._chosen(
                [n for n in range(instances.shape[2]) if self._wanted(labels, instances[..., n])], rng
            )
            other, mask = with_objects(other, chosen), instances[..., chosen].any(2)
        else:
            regions, ids = self._regions(labels)
            mask = np.isin(regions, self._chosen(ids, rng))
        top, left = (int(rng.integers(edge - inner + 1)) for edge, inner in zip(sample.size, other.size))
        return lay([Layer(sample), Layer(other, top, left, mask)], sample.size)

    def _chosen(self, ids: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        count = int(rng.integers(1, min(len(ids), self.max_num_pasted) + 1)) if ids else 0
        return np.sort(rng.permutation(np.asarray(ids, np.intp))[:count])

    def _wanted(self, labels: np.ndarray, mask: np.ndarray) -> bool:
        counts = np.bincount(labels[mask > 0], minlength=256)
        return bool(counts.any()) and (self.classes is None or int(counts.argmax()) in self.classes)

    def _regions(self, labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Return a map (H, W) of numbered connected regions, 0 elsewhere, and the numbers of those large enough."""
        regions, ids = np.zeros(labels.shape, np.int32), []
        for class_id in np.unique(labels) if self.classes is None else sorted(set(self.classes)):
            if class_id == IGNORE:
                continue
            count, found, stats, _ = opencv().connectedComponentsWithStats((labels == class_id).astype(np.uint8))
            first = int(regions.max(initial=0))
            regions = np.where(found > 0, found + first, regions)
            ids += [first + n for n in range(1, count) if stats[n, 4] >= self.min_area]  # column 4: pixels
        return regions, ids
