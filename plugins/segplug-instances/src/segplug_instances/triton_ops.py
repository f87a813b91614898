"""RoIAlign and NMS on CUDA, as Triton kernels; `segplug_instances.backends` decides when they are used.

A program of RoIAlign computes some channels of one cell of one region, from feature maps whose channels are contiguous.
NMS writes which box overlaps which as bits, and one program then visits the boxes in their order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segplug_instances.conventions import Convention

_CHANNELS = 256  # that a program computes
_ROWS, _BITS = 32, 32  # boxes that a program compares with as many others


def roi_cells(matrix: Tensor, first: Tensor, size: tuple[int, int], start: Tensor, side: Tensor, count: Tensor,
              cells: tuple[int, int]) -> Tensor:  # fmt: skip
    """Return the means of bilinear samples in the cells of regions, (R, h, w, C), with a gradient for the features.

    Args:
        matrix: Feature maps as rows (N * H * W, C), contiguous.
        first: Row of the first position of each region's image, (R,) int64.
        size: Height and width of a feature map.
        start: Top and left of each region in feature positions, (R, 2) float32.
        side: Height and width of its cells, (R, 2) float32.
        count: Samples per cell along both axes, (R, 2) int64.
        cells: Cells of a region (h, w).
    """
    return _Cells.apply(matrix, first, size, start.contiguous(), side.contiguous(), count.int().contiguous(), cells)


class _Cells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, first: Tensor, size: Any, start: Any, side: Any, count: Any, cells: Any
    ) -> Any:
        ctx.save_for_backward(first, start, side, count)
        ctx.size, ctx.cells, ctx.shape, ctx.dtype = size, cells, matrix.shape, matrix.dtype
        found = matrix.new_empty(len(first), *cells, matrix.shape[1])
        _launch(matrix, found, first, start, side, count, size, cells, False)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        found = torch.zeros(ctx.shape, dtype=torch.float32, device=gradient.device)
        first, start, side, count = ctx.saved_tensors
        _launch(found, gradient.contiguous(), first, start, side, count, ctx.size, ctx.cells, True)
        return found.to(ctx.dtype), *[None] * 6


def _launch(
    matrix: Tensor, values: Tensor, first: Tensor, start: Tensor, side: Tensor, count: Tensor,
    size: tuple[int, int], cells: tuple[int, int], backward: bool,
) -> None:  # fmt: skip
    channels = matrix.shape[1]
    block = min(triton.next_power_of_2(channels), _CHANNELS)
    programs = values.numel() // max(channels, 1), triton.cdiv(channels, block)
    if not values.numel():
        return
    with torch.cuda.device_of(matrix):
        _cell[programs](
            matrix, values, first, start, side, count, *size, *cells, channels, BLOCK=block, BACKWARD=backward
        )


@triton.jit
def _cell(  # type: ignore[no-untyped-def]
    matrix, values, first, start, side, count, height, width, rows, columns, channels,
    BLOCK: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64)
    region, row, column = cell // (rows * columns), (cell // columns) % rows, cell % columns
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = channel < channels
    samples_y, samples_x = tl.load(count + region * 2), tl.load(count + region * 2 + 1)
    side_y, side_x = tl.load(side + region * 2), tl.load(side + region * 2 + 1)
    top = tl.load(start + region * 2) + row.to(tl.float32) * side_y
    left = tl.load(start + region * 2 + 1) + column.to(tl.float32) * side_x
    image = matrix + tl.load(first + region) * channels + channel
    share = 1.0 / tl.maximum(samples_y * samples_x, 1).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    if BACKWARD:
        total = tl.load(values + cell * channels + channel, mask=there, other=0.0).to(tl.float32) * share
    for i in range(samples_y):
        y = top + (i + 0.5) * side_y / samples_y
        for j in range(samples_x):
            x = left + (j + 0.5) * side_x / samples_x
            if (y >= -1.0) & (y <= height) & (x >= -1.0) & (x <= width):
                y_low, x_low = tl.minimum(tl.maximum(y, 0.0), height - 1.0), tl.minimum(tl.maximum(x, 0.0), width - 1.0)
                upper, near = y_low.to(tl.int64), x_low.to(tl.int64)
                lower, far = tl.minimum(upper + 1, height - 1), tl.minimum(near + 1, width - 1)
                below, after = y_low - upper.to(tl.float32), x_low - near.to(tl.float32)
                a, b = image + (upper * width + near) * channels, image + (upper * width + far) * channels
                c, d = image + (lower * width + near) * channels, image + (lower * width + far) * channels
                if BACKWARD:
                    tl.atomic_add(a, total * (1 - below) * (1 - after), mask=there)
                    tl.atomic_add(b, total * (1 - below) * after, mask=there)
                    tl.atomic_add(c, total * below * (1 - after), mask=there)
                    tl.atomic_add(d, total * below * after, mask=there)
                else:
                    total += (1 - below) * (1 - after) * tl.load(a, mask=there, other=0.0).to(tl.float32)
                    total += (1 - below) * after * tl.load(b, mask=there, other=0.0).to(tl.float32)
                    total += below * (1 - after) * tl.load(c, mask=there, other=0.0).to(tl.float32)
                    total += below * after * tl.load(d, mask=there, other=0.0).to(tl.float32)
    if not BACKWARD:
        place = values + cell * channels + channel
        tl.store(place, (total * share).to(values.dtype.element_ty), mask=there)


def kept_boxes(boxes: Tensor, groups: Tensor | None, limit: float, convention: Convention) -> Tensor:
    """Return which boxes remain, bool (n,); see `segplug_instances.nms.kept_boxes`."""
    number, words = len(boxes), triton.cdiv(len(boxes), _BITS)
    kept = torch.zeros(number, dtype=torch.bool, device=boxes.device)
    if not number:
        return kept
    overlaps = torch.empty(number, words, dtype=torch.int64, device=boxes.device)
    boxes, groups = boxes.float().contiguous(), torch.zeros_like(kept, dtype=torch.long) if groups is None else groups
    with torch.cuda.device_of(boxes):
        _overlaps[triton.cdiv(number, _ROWS), words](
            boxes, groups.contiguous(), overlaps, number, words, limit, convention.edge, ROWS=_ROWS, BITS=_BITS
        )
        _visit[(1,)](overlaps, kept, number, words, WORDS=triton.next_power_of_2(words), BITS=_BITS)
    return kept


@triton.jit
def _overlaps(  # type: ignore[no-untyped-def]
    boxes, groups, overlaps, number, words, limit, edge, ROWS: tl.constexpr, BITS: tl.constexpr
):
    """Write the boxes that each box overlaps, later ones of its group, as bits of words."""
    row, bit = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BITS)
    column = tl.program_id(1) * BITS + bit
    in_rows, in_columns = row < number, column < number
    x1 = tl.load(boxes + row * 4, mask=in_rows, other=0.0)
    y1 = tl.load(boxes + row * 4 + 1, mask=in_rows, other=0.0)
    x2 = tl.load(boxes + row * 4 + 2, mask=in_rows, other=0.0)
    y2 = tl.load(boxes + row * 4 + 3, mask=in_rows, other=0.0)
    u1 = tl.load(boxes + column * 4, mask=in_columns, other=0.0)
    v1 = tl.load(boxes + column * 4 + 1, mask=in_columns, other=0.0)
    u2 = tl.load(boxes + column * 4 + 2, mask=in_columns, other=0.0)
    v2 = tl.load(boxes + column * 4 + 3, mask=in_columns, other=0.0)
    width = tl.maximum(tl.minimum(x2[:, None], u2[None, :]) - tl.maximum(x1[:, None], u1[None, :]) + edge, 0.0)
    height = tl.maximum(tl.minimum(y2[:, None], v2[None, :]) - tl.maximum(y1[:, None], v1[None, :]) + edge, 0.0)
    common = width * height
    area, other = (x2 - x1 + edge) * (y2 - y1 + edge), (u2 - u1 + edge) * (v2 - v1 + edge)
    union = area[:, None] + other[None, :] - common
    group, column_group = (
        tl.load(groups + row, mask=in_rows, other=0),
        tl.load(groups + column, mask=in_columns, other=0),
    )
    later = (column[None, :] > row[:, None]) & in_columns[None, :] & (group[:, None] == column_group[None, :])
    dropped = later & (tl.div_rn(common, union) >= limit)
    word = tl.sum(dropped.to(tl.int64) << bit[None, :].to(tl.int64), 1)
    tl.store(overlaps + row.to(tl.int64) * words + tl.program_id(1), word, mask=in_rows)


@triton.jit
def _visit(overlaps, kept, number, words, WORDS: tl.constexpr, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keep each box in turn unless a kept one has dropped it, and drop those that it overlaps."""
    word = tl.arange(0, WORDS)
    dropped = tl.zeros([WORDS], tl.int64)
    for row in range(number):
        bits = tl.sum(tl.where(word == row // BITS, dropped, 0), 0)
        alive = ((bits >> (row % BITS)) & 1) == 0
        tl.store(kept + row, alive)
        place = overlaps + tl.cast(row, tl.int64) * words + word
        dropped |= tl.load(place, mask=(word < words) & alive, other=0)
