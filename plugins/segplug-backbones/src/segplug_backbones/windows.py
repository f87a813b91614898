"""Maps cut into square windows of tokens and put together again; sizes may be symbols of an exporter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def count_windows(size: Size, side: int) -> Size:
    """Return how many windows cover (height, width) below and beside one another."""
    height, width = size
    return (height + side - 1) // side, (width + side - 1) // side


def pad_to_windows(grid: Tensor, counts: Size, side: int) -> Tensor:
    """Pad (N, H, W, C) with zeros, right and below, to whole windows."""
    _, height, width, _ = grid.shape
    return F.pad(grid, (0, 0, 0, counts[1] * side - width, 0, counts[0] * side - height))


def crop_windows(grid: Tensor, size: Size) -> Tensor:
    """Return the upper left (N, H, W, C) of a padded map, undoing `pad_to_windows`."""
    _, height, width, _ = grid.shape
    return F.pad(
        grid, (0, 0, 0, size[1] - width, 0, size[0] - height)
    )  # unlike a slice, it hides no case of no padding


def split_windows(grid: Tensor, counts: Size, side: int) -> Tensor:
    """(N, H, W, C) -> (N, windows, side * side, C)."""
    (batch, _, _, channels), (rows, columns) = grid.shape, counts
    inner = (batch, rows, side, columns, side, channels)
    return _swapped(grid, inner, (batch, rows * columns, side * side, channels))


def join_windows(windows: Tensor, counts: Size, side: int) -> Tensor:
    """(N, windows, side * side, C) -> (N, H, W, C), undoing `split_windows`."""
    (batch, _, _, channels), (rows, columns) = windows.shape, counts
    inner = (batch, rows, columns, side, side, channels)
    return _swapped(windows, inner, (batch, rows * side, columns * side, channels))


def keep_apart(regions: Tensor, counts: Size, side: int, score: float, dtype: torch.dtype) -> Tensor:
    """Return ``score`` for each two tokens of a window that are of different ``regions`` (H, W), 0 for others.

    (windows, side * side, side * side), to be added to the scores of an attention.
    """
    tokens = split_windows(regions[None, :, :, None], counts, side)[0, :, :, 0]
    apart = tokens.unsqueeze(1) != tokens.unsqueeze(2)
    return torch.zeros_like(apart, dtype=dtype).masked_fill(apart, score)


def _swapped(x: Tensor, inner: Sequence[int], outer: Sequence[int]) -> Tensor:
    """View as ``inner``, swap dimensions 2 and 3, view as ``outer``.

    It goes by way of one dimension, as an exporter then need not know how the old and the new ones compare.
    """
    swapped = x.flatten().view(inner).transpose(2, 3)
    return swapped.clone(memory_format=torch.contiguous_format).flatten().view(outer)
