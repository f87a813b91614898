"""Where Detectron, detectron2 and torchvision differ, in one table.

A checkpoint gives the detections of the code it was trained with only under the same rules: what the width of a box is,
which of two overlapping boxes is dropped, how anchors are placed. Every part takes a `Convention`; packaged
recipes set that of their weights. Values to tune, such as thresholds and numbers of boxes, are arguments of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ConventionName = Literal["detectron", "detectron2", "torchvision"]


@dataclass(frozen=True)
class Convention:
    """Rules of one implementation.

    Attributes:
        inclusive: Whether the right and bottom edge belong to a box: widths are x2 - x1 + 1, and boxes are clipped to
            w - 1. Otherwise widths are x2 - x1, and boxes are clipped to w.
        rounded_anchors: Whether the widths and heights of anchors are rounded to integers.
        sizes_first: Whether the anchors of a cell are listed by size, then by ratio.
        ground_truth_first: Whether ground truth is put before the proposals, rather than after them.
    """

    name: ConventionName
    inclusive: bool
    rounded_anchors: bool
    sizes_first: bool
    ground_truth_first: bool


DETECTRON = Convention("detectron", inclusive=True, rounded_anchors=True, sizes_first=False, ground_truth_first=True)
DETECTRON2 = Convention(
    "detectron2", inclusive=False, rounded_anchors=False, sizes_first=True, ground_truth_first=False
)
TORCHVISION = Convention(
    "torchvision", inclusive=False, rounded_anchors=True, sizes_first=False, ground_truth_first=False
)


def convention_of(name: ConventionName) -> Convention:
    """Return the convention of this name."""
    return {each.name: each for each in (DETECTRON, DETECTRON2, TORCHVISION)}[name]
