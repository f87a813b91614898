"""Objects of an image as the heads of a detector use them in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkernel.errors import UsageError
from segkernel.geometry import Size
from segkernel.sample import Targets
from segplug_instances.boxes import sides, to_convention
from segplug_instances.conventions import Convention


@dataclass
class GroundTruth:
    """The objects of an image, without crowds and without boxes of no area.

    Attributes:
        boxes: (n, 4) in pixels, as the convention counts them.
        labels: Classes (n,) int64, from 0.
        objects: Place of each object among all of the image (n,) int64, the order of ``masks`` and ``keypoints``.
        size: Height and width of the image.
        crowds: Boxes (m, 4) of groups of objects, which are neither trained nor background.
        masks: Bitmaps (N, H, W), or polygons, a mapping of ``points``, ``parts`` and ``objects``; None without masks.
        keypoints: (N, P, 3): x, y, visibility; None without keypoints.
        scale: Side of the image divided by that before it was resized; the box head works in pixels before.
        generator: Of the random samples of anchors and proposals; None for torch's own.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    size: Size
    crowds: Tensor
    masks: Any = None
    keypoints: Tensor | None = None
    scale: float = 1.0
    generator: torch.Generator | None = None

    def boxes_of(self, index: Tensor) -> Tensor:
        """Return the boxes (k, 4) of the objects of an index (k,), of any values if there are no objects."""
        return self.boxes[index] if len(self.boxes) else self.boxes.new_ones(len(index), 4).cumsum(1)


def ground_truths(
    targets: Targets, sizes: Sequence[Size], convention: Convention, scales: Sequence[float] | None = None
) -> list[GroundTruth]:
    """Return the objects of each image of a batch.

    Args:
        targets: Lists with an entry for each image: ``boxes`` (N, 4), ``classes`` (N,), and if there are any ``crowd``
            (N,) bool, ``instances`` and ``keypoints`` (N, P, 3). With ``seeds`` in their ``meta``, the random samples
            of an image depend on its seed alone.
        sizes: Height and width of each image.
        convention: How boxes and keypoints are counted.
        scales: `GroundTruth.scale` of each image; 1 for None.

    Raises:
        UsageError: When boxes or classes are missing.
    """
    if missing := [name for name in ("boxes", "classes") if name not in targets]:
        hint = "set instances: polygons in a data set that has objects, such as CocoInstanceDataset"
        raise UsageError(f"detectors train on boxes and classes; the targets lack {' and '.join(missing)}: {hint}")
    names = [name for name in ("boxes", "classes", "crowd", "instances", "keypoints") if name in targets]
    images = ({name: targets[name][i] for name in names} for i in range(len(sizes)))
    parts = zip(images, sizes, scales or [1.0] * len(sizes))
    found = [_ground_truth(fields, size, scale, convention) for fields, size, scale in parts]
    for truth, seed in zip(found, targets.meta.get("seeds", ())):
        truth.generator = None if seed is None else torch.Generator().manual_seed(seed)
    return found


def _ground_truth(fields: dict[str, Any], size: Size, scale: float, convention: Convention) -> GroundTruth:
    boxes = to_convention(fields["boxes"].float().reshape(-1, 4), convention)
    width, height = sides(boxes, convention)
    crowd = fields.get("crowd", torch.zeros_like(width)).bool()
    objects = ((width > 0) & (height > 0) & ~crowd).nonzero()[:, 0]
    keypoints = fields.get("keypoints")
    if keypoints is not None:  # those of samples are at the centres of pixels
        keypoints = keypoints + keypoints.new_tensor([*[convention.keypoint_centre - 0.5] * 2, 0])
    labels = fields["classes"][objects].long()
    return GroundTruth(boxes[objects], labels, objects, size, boxes[crowd], fields.get("instances"), keypoints, scale)
