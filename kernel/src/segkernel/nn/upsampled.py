"""Cross-entropy of upsampled logits that are never stored as a whole: a few rows at a time, recomputed for gradients.

    loss = upsample_cross_entropy(logits, labels)       # (N, K, h, w) and (N, H, W) -> (N, H, W)

For 150 classes at 512 x 512 the upsampled logits of a batch of four take 629 MB, their log-softmax and its gradient as
much each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, library
from torch.nn import functional as F

from segkernel.nn.resize import upsample_logits

LARGE = {"cpu": 1 << 22, "cuda": 1 << 25}
"""Number of upsampled logits, by type of device, above which they are computed in tiles.

On a CPU, tiles take a third of the memory and about the same time from there on. On a GPU each tile costs launches;
segplug-training, with one kernel for all tiles, lowers the number.
"""
# Number of logits per tile, and rows at least: a tile also interpolates the rows of logits around it.
_TILE, _LEAST_ROWS = {"cpu": 1 << 20, "cuda": 1 << 23}, 16
SWITCH = os.environ.get("SEGKERNEL_TILED_LOSS")  # read once: torch 2.4 does not compile the reading


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    align_corners: bool = False,
    sigmoid: bool = False,
) -> Tensor:
    """Return the cross-entropy of each pixel (N, H, W), 0 where ignored, in float32 at least.

    Equal to ``F.cross_entropy`` of the upsampled logits in value and gradient, up to rounding; with ``sigmoid`` to the
    sum of `binary_cross_entropy` over the classes. More than `LARGE` logits are computed in tiles of rows; with the
    environment variable ``SEGKERNEL_TILED_LOSS=1`` all are, with 0 none. It cannot be differentiated twice.

    Args:
        logits: (N, K, h, w), or, without a stride, (N, K, P) or (N, K).
        target: Class ids, (N, H, W), (N, P) or (N,); with ``sigmoid`` also 1, 0 or a probability for each class, with
            the K of the logits.
        class_weight: One factor per class (K,); with ``sigmoid`` its negative and positive weight (2, K).
        ignore_index: The ignored label.
        label_smoothing: Share of a label that is spread over all classes (Szegedy et al., 2016); not with ``sigmoid``.
        align_corners: How logits are upsampled.
        sigmoid: An independent sigmoid per class instead of a softmax.
    """
    options = class_weight, ignore_index, label_smoothing, sigmoid
    if worth_tiles(logits, target.shape[-2:]):
        return OPERATOR(logits, target, align_corners, *options)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _cross_entropy(upsample_logits(logits, target.shape[-2:], align_corners), target, *options)


def binary_cross_entropy(logits: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int) -> Tensor:
    """Return the loss (N, K, ...) of a sigmoid per class; the arguments are those of `upsample_cross_entropy`."""
    truth, weight = _truth_and_weight(logits, target, class_weight, ignore_index)
    return F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="none")


def upsample_topk(
    logits: Tensor, size: Sequence[int], k: int = 1, thresh: float | None = None, align_corners: bool = False
) -> Tensor:
    """Return the classes (N, k, H, W) of the ``k`` largest upsampled logits; -1 where one is not above ``thresh``."""
    if worth_tiles(logits, size):
        return TOPK(logits, size, align_corners, k, thresh)
    return _topk(upsample_logits(logits, size, align_corners), k, thresh)


def map_tiles(
    function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor, align_corners: bool
) -> Tensor:
    """Return ``function`` of upsampled logits and ``target``, computed in tiles as in `upsample_cross_entropy`.

    A compiler gets the logits in full instead of a loop over tiles.

    Args:
        function: Takes logits (N, K, rows, W) and these rows of the target, and returns (..., rows, W) of them.
        logits: (N, K, h, w).
        target: (N, H, W) or (N, K, H, W).
        align_corners: How logits are upsampled.
    """
    size = target.shape[-2:]
    if torch.compiler.is_compiling() or not worth_tiles(logits, size):
        return function(upsample_logits(logits, size, align_corners), target)
    every = tiles(logits, size, align_corners)
    return torch.cat([function(tile.enlarge(logits), target[..., tile.rows, :]) for tile in every], -2)


def worth_tiles(logits: Tensor, size: Sequence[int]) -> bool:
    """Whether to upsample logits to ``size`` in tiles, by their number or by ``SEGKERNEL_TILED_LOSS``."""
    if SWITCH == "0" or logits.ndim != 4 or tuple(logits.shape[2:]) == tuple(size):
        return False
    return SWITCH == "1" or math.prod((*logits.shape[:2], *size)) > LARGE.get(logits.device.type, LARGE["cuda"])


class Tile(NamedTuple):
    """Rows of upsampled logits, and the rows that they are interpolated from.

    Args:
        rows: Rows of the labels.
        sources: Rows of the logits, for the interpolation.
        width: Width of the labels.
        align_corners: How logits are upsampled.
        upper, lower: For each row the nearest of the ``sources`` above and below.
        share: Weight of the lower one, 0 to 1.
    """

    rows: slice
    sources: slice
    width: int
    align_corners: bool
    upper: Tensor
    lower: Tensor
    share: Tensor

    def enlarge(self, logits: Tensor) -> Tensor:
        """Return these rows (N, K, rows, width) of logits (N, K, h, w), at least in float32."""
        part = logits[:, :, self.sources].to(self.share.dtype)
        wide = F.interpolate(part, (part.shape[2], self.width), mode="bilinear", align_corners=self.align_corners)
        return torch.lerp(wide[:, :, self.upper], wide[:, :, self.lower], self.share[:, None])

    def reduce(self, grad: Tensor, width: int) -> Tensor:
        """Return the gradient (N, K, sources, width) of the logits from that of these rows."""
        count, classes, *_ = grad.shape
        height = self.sources.stop - self.sources.start
        rows = grad.new_zeros(count, classes, height, self.width)
        rows.index_add_(2, self.upper, grad * (1 - self.share[:, None]))
        rows.index_add_(2, self.lower, grad * self.share[:, None])
        sizes = (height, self.width), (count, classes, height, width)
        return torch.ops.aten.upsample_bilinear2d_backward(rows, *sizes, self.align_corners)


def sources(
    size: int, small: int, align_corners: bool, dtype: torch.dtype, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return for each of ``size`` rows the nearest of ``small`` rows above it, and the weight of the next one."""
    row = torch.arange(size, dtype=dtype, device=device)
    if align_corners:
        position = row * ((small - 1) / max(size - 1, 1))
    else:
        position = ((row + 0.5) * (small / size) - 0.5).clamp(min=0)
    upper = position.long().clamp(max=small - 1)
    return upper, position - upper


def tiles(logits: Tensor, size: Sequence[int], align_corners: bool) -> Iterator[Tile]:
    """Yield the tiles of logits (N, K, h, w) that are upsampled to ``size`` (H, W), in order."""
    count, classes, height, _ = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    upper, share = sources(size[0], height, align_corners, dtype)
    lower = (upper + 1).clamp(max=height - 1)
    step = max(_TILE.get(logits.device.type, _TILE["cuda"]) // (count * classes * size[1]), _LEAST_ROWS)
    for start in range(0, size[0], step):
        rows = slice(start, min(start + step, size[0]))
        first, end = int(upper[rows][0]), int(lower[rows][-1]) + 1
        local = (upper[rows] - first, lower[rows] - first, share[rows])
        on_device = (each.to(logits.device, non_blocking=True) for each in local)
        yield Tile(rows, slice(first, end), size[1], align_corners, *on_device)


def tiled(logits: Tensor, target: Tensor, align_corners: bool, *options: Any) -> Tensor:
    """Return `upsample_cross_entropy` (N, H, W); ``options`` are those of `_OPTIONS`."""
    size = target.shape[-2:]
    loss = logits.new_empty((len(logits), *size), dtype=torch.promote_types(logits.dtype, torch.float32))
    for tile in tiles(logits, size, align_corners):
        loss[:, tile.rows] = _cross_entropy(tile.enlarge(logits), target[..., tile.rows, :], *options)
    return loss


def tiled_backward(grad: Tensor, logits: Tensor, target: Tensor, align_corners: bool, *options: Any) -> Tensor:
    """Return the gradient (N, K, h, w) of `tiled` from that of its result (N, H, W)."""
    total = torch.zeros_like(logits, dtype=grad.dtype)
    for tile in tiles(logits, target.shape[-2:], align_corners):
        part, rows = target[..., tile.rows, :], grad[:, tile.rows].unsqueeze(1)
        change = _gradient(tile.enlarge(logits), part, rows, *options)
        total[:, :, tile.sources] += tile.reduce(change, logits.shape[-1])
    return total.to(logits.dtype)


def tiled_topk(logits: Tensor, size: Sequence[int], align_corners: bool, k: int, thresh: float | None) -> Tensor:
    """Return `upsample_topk`."""
    return torch.cat([_topk(tile.enlarge(logits), k, thresh) for tile in tiles(logits, size, align_corners)], 2)


def _topk(logits: Tensor, k: int, thresh: float | None) -> Tensor:
    values, labels = logits.max(1, keepdim=True) if k == 1 else logits.topk(k, 1)  # topk takes ten times as long
    return labels if thresh is None else labels.masked_fill(values <= thresh, -1)


def _cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float, sigmoid: bool
) -> Tensor:
    if sigmoid:
        return binary_cross_entropy(logits, target, weight, ignore_index).sum(1)
    weight = None if weight is None else weight.to(logits.dtype)
    return F.cross_entropy(logits, target, weight, None, ignore_index, None, "none", smoothing)


def _gradient(
    logits: Tensor,
    target: Tensor,
    grad: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    smoothing: float,
    sigmoid: bool,
) -> Tensor:
    """Return the gradient of `_cross_entropy`: of each class its probability, less that of the label, weighted."""
    if sigmoid:
        truth, weight = _truth_and_weight(logits, target, weight, ignore_index)
        return logits.sigmoid().sub_(truth).mul_(weight).mul_(grad)
    valid = target != ignore_index
    truth = (target * valid).unsqueeze(1)
    weight = logits.new_ones(logits.shape[1]) if weight is None else weight.to(logits.dtype)
    factor = grad * valid.unsqueeze(1)
    hard = factor * (1 - smoothing) * weight[truth]
    spread = factor * (smoothing / len(weight))
    change = logits.softmax(1).mul_(hard + spread * weight.sum())
    if smoothing:
        change -= spread * weight.view(-1, 1, 1)
    return change.scatter_add_(1, truth, -hard)


def _truth_and_weight(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return what the sigmoid of each logit (N, K, ...) should be, and the weight of its binary cross-entropy."""
    valid = (target >= 0) & (target != ignore_index)
    truth = target * valid
    if target.ndim < logits.ndim:
        valid, truth = valid.unsqueeze(1), truth.unsqueeze(1)
        truth = truth if logits.shape[1] == 1 else torch.zeros_like(logits).scatter_(1, truth, 1)
    truth, weight = truth.to(logits.dtype), valid.to(logits.dtype)
    if class_weight is not None:
        negative, positive = class_weight.to(logits.dtype).view(2, -1, *[1] * (logits.ndim - 2))
        factor = torch.lerp(negative, positive, truth)
        truth, weight = truth * positive / factor.clamp(min=torch.finfo(factor.dtype).tiny), weight * factor
    return truth, weight


# Custom operators, so that compilers do not trace into them, and devices can have their own kernels.
_OPTIONS = "Tensor? class_weight, int ignore_index, float label_smoothing, bool sigmoid"
_SCHEMA = f"Tensor logits, Tensor target, bool align_corners, {_OPTIONS}) -> Tensor"
_define: Any = partial(library.custom_op, mutates_args=())
OPERATOR = _define("segkernel::upsample_cross_entropy", tiled, schema=f"({_SCHEMA}")
BACKWARD = _define("segkernel::upsample_cross_entropy_backward", tiled_backward, schema=f"(Tensor grad, {_SCHEMA}")
_TOPK_SCHEMA = "(Tensor logits, int[] size, bool align_corners, int k, float? thresh) -> Tensor"
TOPK = _define("segkernel::upsample_topk", tiled_topk, schema=_TOPK_SCHEMA)


@OPERATOR.register_fake
def _(logits: Tensor, target: Tensor, *options: object) -> Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty((logits.shape[0], *target.shape[-2:]), dtype=dtype)


@BACKWARD.register_fake
def _(grad: Tensor, logits: Tensor, *options: object) -> Tensor:
    return torch.empty_like(logits)


@TOPK.register_fake
def _(logits: Tensor, size: Sequence[int], align_corners: bool, k: int, thresh: float | None) -> Tensor:
    return logits.new_empty((logits.shape[0], k, *size), dtype=torch.long)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    logits, target, ctx.align_corners, weight, *ctx.options = inputs
    ctx.save_for_backward(logits, target, weight)


def _differentiate(ctx, grad):  # type: ignore[no-untyped-def]
    logits, target, weight = ctx.saved_tensors
    found = BACKWARD(grad.contiguous(), logits, target, ctx.align_corners, weight, *ctx.options)
    return found, *[None] * 6


OPERATOR.register_autograd(_differentiate, setup_context=_keep)
