"""Class ids of upsampled logits on CUDA: a Triton kernel that writes nothing but the ids.

Pixels with the same four nearest logits form a cell. One program processes a cell, with all classes of these logits in
registers, and interpolates them for one pixel after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import interpolate

from segkernel.nn import upsampled

MOST_CLASSES = 1024
"""With more classes, a cell's logits do not fit into registers."""


def compare(device: torch.device) -> None:
    """Compare the kernel with ``interpolate`` and ``argmax`` on a small input.

    Raises:
        RuntimeError: When a label is not that of the largest logit, up to rounding.
    """
    logits = torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(0)).to(device)
    for align_corners in (False, True):
        large = interpolate(logits, (17, 22), mode="bilinear", align_corners=align_corners)[..., :21]
        labels = upsampled_argmax(logits, (17, 22), (17, 21), align_corners, torch.uint8)
        missing = large.amax(1) - large.gather(1, labels.long()[:, None])[:, 0]
        if not missing.max() < 1e-5:
            raise RuntimeError(f"labels of the Triton kernel are off by {missing.max():.1e} on {device}")


@triton.jit
def _labels_of_cell(  # type: ignore[no-untyped-def]
    logits, labels, rows, row_share, columns, column_share, height, width, full_height, full_width, classes,
    BLOCK: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0)
    x, y, n = cell % width, (cell // width) % height, cell // (width * height)
    right, lower = tl.minimum(x + 1, width - 1), tl.minimum(y + 1, height - 1)
    k = tl.arange(0, BLOCK)
    there = k < classes
    image = logits + n.to(tl.int64) * height * width * classes + k
    a = tl.load(image + (y * width + x) * classes, mask=there, other=0.0).to(tl.float32)
    b = tl.load(image + (y * width + right) * classes, mask=there, other=0.0).to(tl.float32)
    c = tl.load(image + (lower * width + x) * classes, mask=there, other=0.0).to(tl.float32)
    d = tl.load(image + (lower * width + right) * classes, mask=there, other=0.0).to(tl.float32)
    for row in range(tl.load(rows + y), tl.load(rows + y + 1)):
        below = tl.load(row_share + row)
        for column in range(tl.load(columns + x), tl.load(columns + x + 1)):
            after = tl.load(column_share + column)
            # In the order of torch's kernel, so that rounding errors are the same.
            value = (1 - below) * ((1 - after) * a + after * b) + below * ((1 - after) * c + after * d)
            label = tl.argmax(tl.where(there, value, float("-inf")), 0)
            place = (n.to(tl.int64) * full_height + row) * full_width + column
            tl.store(labels + place, label.to(labels.dtype.element_ty))


def upsampled_argmax(
    logits: Tensor, size: Sequence[int], kept: Sequence[int], align_corners: bool, dtype: torch.dtype
) -> Tensor:
    """Return the class ids (N, *kept) of logits (N, K, h, w) upsampled to ``size``, cropped at the bottom and right.

    Equal to ``interpolate`` and ``argmax``, except where two logits differ by rounding only; values must be finite.
    """
    count, classes, height, width = logits.shape
    small = logits.movedim(1, -1).contiguous()
    labels = torch.empty((count, *kept), dtype=dtype, device=logits.device)
    cells = []
    for large, part, few in zip(size, kept, (height, width)):
        upper, share = upsampled.sources(large, few, align_corners, torch.float32, logits.device)
        starts = torch.searchsorted(upper[:part].contiguous(), torch.arange(few + 1, device=logits.device))
        cells += [starts.int(), share]
    block = triton.next_power_of_2(classes)
    shape = height, width, *kept, classes
    with torch.cuda.device_of(small):
        _labels_of_cell[(count * height * width,)](
            small, labels, *cells, *shape, BLOCK=block, num_warps=1 if block <= 256 else 4
        )
    return labels
