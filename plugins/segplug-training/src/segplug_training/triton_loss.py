"""Cross-entropy of upsampled logits on CUDA: Triton kernels whose only output of the labels' size is the loss.

Pixels with the same four nearest logits form a cell. One program processes a cell, with all classes of these logits in
registers, and sums their gradients separately from the other programs, so that the result does not depend on the
order in which they run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from segkernel.nn import upsampled

MOST_CLASSES = 1024
"""With more classes, a cell's logits do not fit into registers, and torch computes the loss in tiles of rows."""


@functools.cache
def register(device: torch.device) -> None:
    """Register these kernels as the CUDA implementation of `segkernel.nn.upsample_cross_entropy`.

    Raises:
        RuntimeError: When their results differ from the plain implementation's, or they cannot be compiled.
    """
    compare(device)
    upsampled.OPERATOR.register_kernel("cuda", forward)
    upsampled.BACKWARD.register_kernel("cuda", backward)
    upsampled.LARGE["cuda"] = upsampled.LARGE["cpu"]  # two launches, however many logits


def compare(device: torch.device) -> None:
    """Compare the kernels with the plain implementation on a small input.

    Raises:
        RuntimeError: When they differ.
    """
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 2, 3, generator=draw).to(device)
    target = torch.randint(0, 6, (1, 4, 5), generator=draw).to(device)
    weight, grad = torch.rand(2, 5, generator=draw).to(device), torch.rand(1, 4, 5, generator=draw).to(device)
    softmax, sigmoid = (False, weight[0], 5, 0.1, False), (False, weight, 5, 0.0, True)
    pairs = {}
    for kind, options in (("", softmax), (" with a sigmoid", sigmoid)):
        pairs[f"loss{kind}"] = [form(logits, target, *options) for form in (forward, upsampled.tiled)]
        both = backward, upsampled.tiled_backward
        pairs[f"gradient{kind}"] = [form(grad, logits, target, *options) for form in both]
    for name, (ours, plain) in pairs.items():
        if not torch.allclose(ours, plain, rtol=1e-4, atol=1e-5):
            raise RuntimeError(f"the Triton kernels' {name} is off by {(ours - plain).abs().max():.1e} on {device}")


def _is_fit(logits: Tensor, target: Tensor) -> bool:
    """Whether the kernels take these logits and labels, which must be class ids."""
    has_ids = not target.is_floating_point() and target.numel() == len(logits) * target.shape[-2:].numel()
    return has_ids and logits.shape[1] <= MOST_CLASSES and logits.dtype != torch.float64


@triton.jit
def _corners(logits, cell, height, width, classes, k, there):  # type: ignore[no-untyped-def]
    """Return the image, row and column of a cell, and its logits: upper left and right, lower left and right."""
    x, y, n = cell % width, (cell // width) % height, cell // (width * height)
    right, lower = tl.minimum(x + 1, width - 1), tl.minimum(y + 1, height - 1)
    image = logits + n.to(tl.int64) * height * width * classes + k
    a = tl.load(image + (y * width + x) * classes, mask=there, other=0.0).to(tl.float32)
    b = tl.load(image + (y * width + right) * classes, mask=there, other=0.0).to(tl.float32)
    c = tl.load(image + (lower * width + x) * classes, mask=there, other=0.0).to(tl.float32)
    d = tl.load(image + (lower * width + right) * classes, mask=there, other=0.0).to(tl.float32)
    return n, y, x, a, b, c, d


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    logits,
    target,
    weight,
    loss,
    rows,
    row_share,
    columns,
    column_share,
    height,
    width,
    full_height,
    full_width,
    classes,
    first,
    ignore_index,
    smoothing,
    SIGMOID: tl.constexpr,
    BLOCK: tl.constexpr,
):
    k = tl.arange(0, BLOCK)
    there = k < classes
    n, y, x, a, b, c, d = _corners(logits, tl.program_id(0), height, width, classes, k, there)
    w = tl.load(weight + k, mask=there, other=0.0)  # with a sigmoid, of a negative label
    if SIGMOID:
        positive = tl.load(weight + classes + k, mask=there, other=0.0)
    for row in range(tl.load(rows + y), tl.load(rows + y + 1)):
        share = tl.load(row_share + row)
        left, right = a + (c - a) * share, b + (d - b) * share
        for column in range(tl.load(columns + x), tl.load(columns + x + 1)):
            v = left + (right - left) * tl.load(column_share + column)
            place = (n.to(tl.int64) * full_height + row) * full_width + column
            label = tl.load(target + place)
            ignored = label == ignore_index
            if SIGMOID:
                ignored |= label < 0
                truth = k + first == label
                loss_of_class = tl.maximum(v, 0.0) - tl.where(truth, v, 0.0) + tl.log(1 + tl.exp(-tl.abs(v)))
                value = tl.sum(tl.where(there, tl.where(truth, positive, w) * loss_of_class, 0.0), 0)
            else:
                largest = tl.max(tl.where(there, v, float("-inf")), 0)
                total = tl.sum(tl.where(there, tl.exp(v - largest), 0.0), 0)
                # The negative log-likelihood of every class.
                nll = tl.where(there, largest + tl.log(total) - v, 0.0)
                hard = tl.sum(tl.where(k == label, w * nll, 0.0), 0)
                value = (1 - smoothing) * hard + smoothing / classes * tl.sum(w * nll, 0)
            # An invalid label yields nan, to be noticed.
            value = tl.where((label >= 0) & (label < classes + first), value, float("nan"))
            tl.store(loss + place, tl.where(ignored, 0.0, value))


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    logits,
    target,
    weight,
    grad,
    parts,
    rows,
    row_share,
    columns,
    column_share,
    height,
    width,
    full_height,
    full_width,
    classes,
    first,
    ignore_index,
    smoothing,
    numbers,
    SIGMOID: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cell = tl.program_id(0)
    k = tl.arange(0, BLOCK)
    there = k < classes
    n, y, x, a, b, c, d = _corners(logits, cell, height, width, classes, k, there)
    w = tl.load(weight + k, mask=there, other=0.0)  # with a sigmoid, of a negative label
    if SIGMOID:
        positive = tl.load(weight + classes + k, mask=there, other=0.0)
    of_a, of_b = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    of_c, of_d = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for row in range(tl.load(rows + y), tl.load(rows + y + 1)):
        share = tl.load(row_share + row)
        left, right = a + (c - a) * share, b + (d - b) * share
        of_left, of_right = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
        for column in range(tl.load(columns + x), tl.load(columns + x + 1)):
            column_weight = tl.load(column_share + column)
            v = left + (right - left) * column_weight
            place = (n.to(tl.int64) * full_height + row) * full_width + column
            label = tl.load(target + place)
            factor = tl.where(label == ignore_index, 0.0, tl.load(grad + place))
            if SIGMOID:
                factor = tl.where(label < 0, 0.0, factor)
                truth = k + first == label
                probability = 1 / (1 + tl.exp(-v))
                change = factor * tl.where(truth, (probability - 1) * positive, probability * w)
            else:
                e = tl.where(there, tl.exp(v - tl.max(tl.where(there, v, float("-inf")), 0)), 0.0)
                true = tl.where(k == label, w, 0.0)
                hard, spread = factor * (1 - smoothing), factor * smoothing / classes
                change = e / tl.sum(e, 0) * (hard * tl.sum(true, 0) + spread * tl.sum(w, 0)) - hard * true - spread * w
            of_left += change * (1 - column_weight)
            of_right += change * column_weight
        of_a += of_left * (1 - share)
        of_b += of_right * (1 - share)
        of_c += of_left * share
        of_d += of_right * share
    own = parts + cell.to(tl.int64) * classes + k
    tl.store(own, of_a, mask=there)
    tl.store(own + numbers, of_b, mask=there)
    tl.store(own + 2 * numbers, of_c, mask=there)
    tl.store(own + 3 * numbers, of_d, mask=there)


def forward(
    logits: Tensor,
    target: Tensor,
    align_corners: bool,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    sigmoid: bool,
) -> Tensor:
    """Return the loss (N, H, W) of `segkernel.nn.upsample_cross_entropy`, float32."""
    options = ignore_index, label_smoothing, sigmoid
    if not _is_fit(logits, target):
        return upsampled.tiled(logits, target, align_corners, class_weight, *options)
    loss = torch.empty((len(logits), *target.shape[-2:]), dtype=torch.float32, device=logits.device)
    arguments, block = _arguments(logits, target, class_weight, align_corners, sigmoid)
    small, target, weight, *shape = arguments
    _launch(_forward, small, target, weight, loss, *shape, *options, BLOCK=block)
    return loss


def backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    align_corners: bool,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    sigmoid: bool,
) -> Tensor:
    """Return the gradient (N, K, h, w) of `forward`, in the dtype of the logits."""
    if not _is_fit(logits, target):
        options = class_weight, ignore_index, label_smoothing, sigmoid
        return upsampled.tiled_backward(grad, logits, target, align_corners, *options)
    arguments, block = _arguments(logits, target, class_weight, align_corners, sigmoid)
    small, target, weight, *shape = arguments
    parts = torch.empty((4, *small.shape), dtype=torch.float32, device=logits.device)
    shape += [ignore_index, label_smoothing, small.numel(), sigmoid]
    _launch(_backward, small, target, weight, grad.float().contiguous(), parts, *shape, BLOCK=block)
    upper = _with_next(parts[0], parts[1], 2)
    total = _with_next(upper, _with_next(parts[2], parts[3], 2), 1)
    return total.movedim(-1, 1).to(logits.dtype)


def _arguments(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, align_corners: bool, sigmoid: bool
) -> tuple[list[Any], int]:
    """Return the arguments of both kernels, and their block size."""
    _, classes, height, width = logits.shape
    small = logits.movedim(1, -1).contiguous()
    weight = logits.new_ones((2 if sigmoid else 1, classes)) if class_weight is None else class_weight
    cells: list[Any] = []
    for size, few in zip(target.shape[-2:], (height, width)):
        upper, share = upsampled.sources(size, few, align_corners, torch.float32, logits.device)
        starts = torch.searchsorted(upper, torch.arange(few + 1, device=logits.device))
        cells += [starts.int(), share]
    first = 1 if sigmoid and classes == 1 else 0  # the class of the first channel
    shape = [height, width, *target.shape[-2:], classes, first]
    return [small, target.contiguous(), weight.float().contiguous(), *cells, *shape], triton.next_power_of_2(classes)


def _launch(kernel: Any, small: Tensor, *arguments: Any, BLOCK: int) -> None:
    count, height, width, _ = small.shape
    with torch.cuda.device_of(small):
        kernel[(count * height * width,)](small, *arguments, BLOCK=BLOCK, num_warps=1 if BLOCK <= 256 else 4)


def _with_next(own: Tensor, after: Tensor, axis: int) -> Tensor:
    """Add ``after`` to ``own``, shifted by one along an axis; its last entry stays in place."""
    length = own.shape[axis]
    own.narrow(axis, 1, length - 1).add_(after.narrow(axis, 0, length - 1))
    own.narrow(axis, length - 1, 1).add_(after.narrow(axis, length - 1, 1))
    return own
