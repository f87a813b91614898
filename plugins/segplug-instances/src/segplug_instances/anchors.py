"""Anchors of a region proposal network (Ren et al., Faster R-CNN, 2015; Lin et al., FPN, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segplug_instances.conventions import Convention, ConventionName, convention_of


class Anchors:
    """Boxes of several sizes and ratios around every position of each feature map.

    Args:
        sizes: Side lengths in pixels of the square anchors, for each level.
        ratios: Height divided by width.
        convention: Rounding, order and position of the anchors of a cell; see `Convention`.
        offset: Position of the centre in a cell, in cells; not used where anchors are rounded to a Detectron cell.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]] = ((32,), (64,), (128,), (256,), (512,)),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        convention: ConventionName = "torchvision",
        offset: float = 0.0,
    ) -> None:
        self.sizes, self.ratios = sizes, ratios
        self.convention, self.offset = convention_of(convention), offset

    @property
    def per_cell(self) -> int:
        """Anchors at each position; the same for all levels."""
        return len(self.sizes[0]) * len(self.ratios)

    def __call__(self, shapes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return the anchors of each level, (H * W * A, 4) float32, in the order y, x, anchor.

        Args:
            shapes: Height and width of each feature map.
            strides: Pixels per cell, vertically and horizontally, for each level.
        """
        levels = zip(self.sizes, shapes, strides)
        return [self._level(cell_anchors(sizes, self.ratios, stride, self.convention), shape, stride)
                for sizes, shape, stride in levels]  # fmt: skip

    def _level(self, cell: Tensor, shape: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        rows = (torch.arange(shape[0], dtype=torch.float32) + self.offset) * stride[0]
        columns = (torch.arange(shape[1], dtype=torch.float32) + self.offset) * stride[1]
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        return (shifts + cell).reshape(-1, 4)


def cell_anchors(
    sizes: Sequence[float], ratios: Sequence[float], stride: tuple[int, int], convention: Convention
) -> Tensor:
    """Return the anchors (A, 4) of the first cell."""
    if convention.sizes_first:
        pairs = [(size, ratio) for size in sizes for ratio in ratios]
    else:
        pairs = [(size, ratio) for ratio in ratios for size in sizes]
    return torch.tensor([_anchor(size, ratio, stride, convention) for size, ratio in pairs], dtype=torch.float32)


def _anchor(size: float, ratio: float, stride: tuple[int, int], convention: Convention) -> list[float]:
    if convention.inclusive:  # Detectron's: ratios of the cell first, rounded, then scaled to the size
        width = round((stride[1] * stride[0] / ratio) ** 0.5)
        height = round(width * ratio)
        width, height = width * size / stride[1], height * size / stride[0]
        x, y = (stride[1] - 1) / 2, (stride[0] - 1) / 2
        return [x - (width - 1) / 2, y - (height - 1) / 2, x + (width - 1) / 2, y + (height - 1) / 2]
    width, height = (size**2 / ratio) ** 0.5, (size**2 / ratio) ** 0.5 * ratio
    half = [-width / 2, -height / 2, width / 2, height / 2]
    return [float(torch.tensor(side).round()) for side in half] if convention.rounded_anchors else half
