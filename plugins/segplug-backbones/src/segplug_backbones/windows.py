"""Partition of feature maps into square windows of tokens, for attention within windows.

Sizes may be an exporter's symbols, so they are computed without branches on their values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def count_windows(size: Size, window_size: int) -> Size:
    """Return the number of windows that cover ``size`` (height, width), per column and per row."""
    height, width = size
    return (height + window_size - 1) // window_size, (width + window_size - 1) // window_size


def pad_to_windows(grid: Tensor, num_windows: Size, window_size: int) -> Tensor:
    """Pad (N, H, W, C) with zeros at the bottom and right to whole windows."""
    _, height, width, _ = grid.shape
    return F.pad(grid, (0, 0, 0, num_windows[1] * window_size - width, 0, num_windows[0] * window_size - height))


def crop_to_size(grid: Tensor, size: Size) -> Tensor:
    """Undo `pad_to_windows`: return the upper left ``size`` of (N, H, W, C)."""
    _, height, width, _ = grid.shape
    # A negative padding. To an exporter, a slice would be two cases: with padding, and without any.
    return F.pad(grid, (0, 0, 0, size[1] - width, 0, size[0] - height))


def window_partition(grid: Tensor, num_windows: Size, window_size: int) -> Tensor:
    """(N, H, W, C) -> (N, windows, window_size^2, C)."""
    (batch, _, _, channels), (rows, columns) = grid.shape, num_windows
    split = (batch, rows, window_size, columns, window_size, channels)
    return _transpose_between(grid, split, (batch, rows * columns, window_size * window_size, channels))


def window_reverse(windows: Tensor, num_windows: Size, window_size: int) -> Tensor:
    """Undo `window_partition`: (N, windows, window_size^2, C) -> (N, H, W, C)."""
    (batch, _, _, channels), (rows, columns) = windows.shape, num_windows
    split = (batch, rows, columns, window_size, window_size, channels)
    return _transpose_between(windows, split, (batch, rows * window_size, columns * window_size, channels))


def window_attention_mask(
    region_ids: Tensor, num_windows: Size, window_size: int, masked: float, dtype: torch.dtype
) -> Tensor:
    """Return a mask, (windows, window_size^2, window_size^2), to be added to the logits of the attention.

    Args:
        region_ids: (H, W); tokens of different regions do not attend to each other.
        num_windows: Windows per column and per row.
        window_size: Side of a window in tokens.
        masked: Value of the mask where attention is not allowed, 0 elsewhere.
        dtype: dtype of the mask, that of the logits.
    """
    tokens = window_partition(region_ids[None, :, :, None], num_windows, window_size)[0, :, :, 0]
    different = tokens.unsqueeze(1) != tokens.unsqueeze(2)
    return torch.zeros_like(different, dtype=dtype).masked_fill(different, masked)


def _transpose_between(x: Tensor, split: Sequence[int], merged: Sequence[int]) -> Tensor:
    """View ``x`` as ``split``, transpose dimensions 2 and 3, and view the result as ``merged``.

    By way of one flat dimension: an exporter then need not prove how the old dimensions divide into the new ones.
    """
    transposed = x.flatten().view(split).transpose(2, 3)
    return transposed.clone(memory_format=torch.contiguous_format).flatten().view(merged)
