"""Partition of feature maps into windows of tokens, for attention within windows.

A window size is the side of a square, or (height, width), in tokens.

Sizes may be an exporter's symbols, so they are computed without branches on their values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]
WindowSize = int | Size


def count_windows(size: Size, window_size: WindowSize) -> Size:
    """Return the number of windows that cover ``size`` (height, width), per column and per row."""
    (height, width), (rows, columns) = size, _sides(window_size)
    return (height + rows - 1) // rows, (width + columns - 1) // columns


def windows_of(size: Size, window_size: int) -> tuple[Size, Size]:
    """Return the size of a window and the number of windows; with a ``window_size`` of 0, the whole map is one."""
    if not window_size:
        return size, (1, 1)
    return (window_size, window_size), count_windows(size, window_size)


def pad_to_windows(grid: Tensor, num_windows: Size, window_size: WindowSize) -> Tensor:
    """Pad (N, H, W, C) with zeros at the bottom and right to whole windows."""
    (_, height, width, _), (rows, columns) = grid.shape, _sides(window_size)
    return F.pad(grid, (0, 0, 0, num_windows[1] * columns - width, 0, num_windows[0] * rows - height))


def crop_to_size(grid: Tensor, size: Size) -> Tensor:
    """Undo `pad_to_windows`: return the upper left ``size`` of (N, H, W, C)."""
    _, height, width, _ = grid.shape
    # A negative padding. To an exporter, a slice would be two cases: with padding, and without any.
    return F.pad(grid, (0, 0, 0, size[1] - width, 0, size[0] - height))


def window_partition(grid: Tensor, num_windows: Size, window_size: WindowSize) -> Tensor:
    """(N, H, W, C) -> (N, windows, tokens, C)."""
    (batch, _, _, channels), (rows, columns), (height, width) = grid.shape, num_windows, _sides(window_size)
    split = (batch, rows, height, columns, width, channels)
    return _transpose_between(grid, split, (batch, rows * columns, height * width, channels))


def window_reverse(windows: Tensor, num_windows: Size, window_size: WindowSize) -> Tensor:
    """Undo `window_partition`: (N, windows, tokens, C) -> (N, H, W, C)."""
    (batch, _, _, channels), (rows, columns), (height, width) = windows.shape, num_windows, _sides(window_size)
    split = (batch, rows, columns, height, width, channels)
    return _transpose_between(windows, split, (batch, rows * height, columns * width, channels))


def shift_region_ids(num_windows: Size, window_size: WindowSize, shift: WindowSize, device: torch.device) -> Tensor:
    """Return which of nine regions each token of a cyclically shifted map is in, (H, W).

    Tokens of different regions meet in no window of the map before the shift.
    """
    rows, columns = (
        # 0 before the last window, 1 in its first part, and 2 in the part that came from the other side.
        (torch.arange(count * side, device=device) >= (count - 1) * side).long()
        + (torch.arange(count * side, device=device) >= count * side - step)
        for count, side, step in zip(num_windows, _sides(window_size), _sides(shift), strict=True)
    )
    return rows[:, None] * 3 + columns


def relative_position_index(window_size: WindowSize) -> Tensor:
    """Return the row of a table of all offsets for each pair of tokens of a window, (tokens, tokens)."""
    height, width = _sides(window_size)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([row.flatten(), column.flatten()])
    # Offsets between two tokens are from 1 - side to side - 1 along each axis; made positive, they are the two digits
    # of the row.
    down, right = position[:, :, None] - position[:, None, :]
    return (down + height - 1) * (2 * width - 1) + right + width - 1


def window_attention_mask(
    region_ids: Tensor, num_windows: Size, window_size: WindowSize, masked: float, dtype: torch.dtype
) -> Tensor:
    """Return a mask, (windows, tokens, tokens), to be added to the logits of the attention.

    Args:
        region_ids: (H, W); tokens of different regions do not attend to each other.
        num_windows: Windows per column and per row.
        window_size: Of a window in tokens.
        masked: Value of the mask where attention is not allowed, 0 elsewhere.
        dtype: dtype of the mask, that of the logits.
    """
    tokens = window_partition(region_ids[None, :, :, None], num_windows, window_size)[0, :, :, 0]
    different = tokens.unsqueeze(1) != tokens.unsqueeze(2)
    return torch.zeros_like(different, dtype=dtype).masked_fill(different, masked)


def _sides(window_size: WindowSize) -> Size:
    return (window_size, window_size) if isinstance(window_size, int) else window_size


def _transpose_between(x: Tensor, split: Sequence[int], merged: Sequence[int]) -> Tensor:
    """View ``x`` as ``split``, transpose dimensions 2 and 3, and view the result as ``merged``.

    By way of one flat dimension: an exporter then need not prove how the old dimensions divide into the new ones.
    """
    transposed = x.flatten().view(split).transpose(2, 3)
    return transposed.clone(memory_format=torch.contiguous_format).flatten().view(merged)
