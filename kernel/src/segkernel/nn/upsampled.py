"""Cross-entropy of upsampled logits that are never stored as a whole: a few rows at a time, recomputed for gradients.

    loss = upsample_cross_entropy(logits, labels)       # (N, K, h, w) and (N, H, W) -> (N, H, W)

For 150 classes at 512 x 512 the upsampled logits of a batch of four take 629 MB, their log-softmax and its gradient as
much each.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, library
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segkernel.nn.resize import upsample_logits

LARGE = 1 << 25
"""Number of upsampled logits above which they are computed in tiles: below, the saved memory is not worth the time."""
_TILE, _MOST_TILES = 1 << 20, 32  # least number of logits per tile


def upsample_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = 255,
    label_smoothing: float = 0.0,
    align_corners: bool = False,
) -> Tensor:
    """Return the cross-entropy of each pixel (N, H, W), 0 where ignored; float32 for logits of half precision.

    Equal to ``F.cross_entropy`` of the upsampled logits in value and gradient, up to rounding. More than `LARGE` logits
    are computed in tiles of rows, unless ``SEGKERNEL_TILED_LOSS=0``. It cannot be differentiated twice.

    Args:
        logits: (N, K, h, w), or, without a stride, (N, K, P) or (N, K).
        target: Class ids, (N, H, W), (N, P) or (N,).
        class_weight: One factor per class (K,).
        ignore_index: The ignored label.
        label_smoothing: Share of a label that is spread over all classes (Szegedy et al., 2016).
        align_corners: How logits are upsampled.
    """
    if worth_tiles(logits, target.shape[-2:]):
        return OPERATOR(logits, target, class_weight, ignore_index, label_smoothing, align_corners)
    logits = upsample_logits(logits, target.shape[-2:], align_corners)
    return F.cross_entropy(logits, target, class_weight, None, ignore_index, None, "none", label_smoothing)


def worth_tiles(logits: Tensor, size: tuple[int, ...]) -> bool:
    """Whether upsampling logits to ``size`` takes much memory, and tiles are not turned off."""
    is_large = logits.ndim == 4 and logits.shape[2:] != size and math.prod((*logits.shape[:2], *size)) > LARGE
    return is_large and os.environ.get("SEGKERNEL_TILED_LOSS", "1") != "0"


def upsample_max(logits: Tensor, size: tuple[int, ...], align_corners: bool = False) -> tuple[Tensor, Tensor]:
    """Return the largest upsampled logit of each pixel, and its class, both (N, H, W); without gradient."""
    if not worth_tiles(logits, size):
        return torch.max(upsample_logits(logits.detach(), size, align_corners), 1)
    best = [
        tile.enlarge(logits.detach()[:, :, tile.sources], size[-1], align_corners).max(1)
        for tile in tiles(logits, size, align_corners)
    ]
    return torch.cat([values for values, _ in best], 1), torch.cat([labels for _, labels in best], 1)


def in_tiles(loss: Callable[[Tensor, slice], Tensor], logits: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    """Return ``loss`` (N, H, W) of logits (N, K, h, w) upsampled to ``size``, tile by tile, recomputed for gradients.

    ``loss`` takes upsampled logits (N, K, rows, W) and the rows, and returns (N, rows, W).
    """

    def of_tile(part: Tensor, tile: Tile) -> Tensor:
        return loss(tile.enlarge(part, size[-1], align_corners), tile.rows)

    every = ((logits[:, :, tile.sources], tile) for tile in tiles(logits, size, align_corners))
    return torch.cat([checkpoint(of_tile, *each, use_reentrant=False) for each in every], 1)


class Tile(NamedTuple):
    """Rows of upsampled logits, and the rows that they are interpolated from.

    Args:
        rows: Rows of the labels.
        sources: Rows of the logits, for the interpolation.
        upper, lower: For each row the nearest of the ``sources`` above and below.
        share: Weight of the lower one, 0 to 1.
    """

    rows: slice
    sources: slice
    upper: Tensor
    lower: Tensor
    share: Tensor

    def enlarge(self, logits: Tensor, width: int, align_corners: bool) -> Tensor:
        """Return these rows (N, K, rows, width), at least in float32, from all rows of their ``sources``."""
        logits = logits.to(self.share.dtype)
        wide = F.interpolate(logits, (logits.shape[2], width), mode="bilinear", align_corners=align_corners)
        return torch.lerp(wide[:, :, self.upper], wide[:, :, self.lower], self.share[:, None])

    def reduce(self, grad: Tensor, width: int, align_corners: bool) -> Tensor:
        """Return the gradient (N, K, sources, width) of the logits from that of these rows."""
        count, classes, _, wide = grad.shape
        height = self.sources.stop - self.sources.start
        rows = grad.new_zeros(count, classes, height, wide)
        rows.index_add_(2, self.upper, grad * (1 - self.share[:, None]))
        rows.index_add_(2, self.lower, grad * self.share[:, None])
        sizes = (height, wide), (count, classes, height, width)
        return torch.ops.aten.upsample_bilinear2d_backward(rows, *sizes, align_corners)


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


def tiles(logits: Tensor, size: tuple[int, ...], align_corners: bool) -> Iterator[Tile]:
    """Yield the tiles of logits (N, K, h, w) that are upsampled to ``size`` (H, W), in order."""
    count, classes, height, _ = logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    upper, share = sources(size[0], height, align_corners, dtype)
    lower = (upper + 1).clamp(max=height - 1)
    step = max(_TILE // (count * classes * size[1]), -(-size[0] // _MOST_TILES))
    for start in range(0, size[0], step):
        rows = slice(start, min(start + step, size[0]))
        first, end = int(upper[rows][0]), int(lower[rows][-1]) + 1
        local = (upper[rows] - first, lower[rows] - first, share[rows])
        yield Tile(rows, slice(first, end), *(each.to(logits.device, non_blocking=True) for each in local))


def tiled(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    align_corners: bool,
) -> Tensor:
    """Return `upsample_cross_entropy` (N, H, W)."""
    options = (class_weight, ignore_index, label_smoothing)
    loss = logits.new_empty(target.shape, dtype=torch.promote_types(logits.dtype, torch.float32))
    for tile in tiles(logits, target.shape[-2:], align_corners):
        full = tile.enlarge(logits[:, :, tile.sources], target.shape[-1], align_corners)
        loss[:, tile.rows] = _cross_entropy(full, target[:, tile.rows], *options)
    return loss


def tiled_backward(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    align_corners: bool,
) -> Tensor:
    """Return the gradient (N, K, h, w) of `tiled` from that of its result (N, H, W)."""
    total = torch.zeros_like(logits, dtype=grad.dtype)
    for tile in tiles(logits, target.shape[-2:], align_corners):
        full = tile.enlarge(logits[:, :, tile.sources], target.shape[-1], align_corners)
        options = (class_weight, ignore_index, label_smoothing)
        change = _gradient(full, target[:, tile.rows], grad[:, tile.rows], *options)
        total[:, :, tile.sources] += tile.reduce(change, logits.shape[-1], align_corners)
    return total.to(logits.dtype)


def _gradient(
    logits: Tensor, target: Tensor, grad: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> Tensor:
    """Return the gradient of `_cross_entropy`: of each class its probability, less 1 for the true one, weighted."""
    valid = target != ignore_index
    truth = (target * valid).unsqueeze(1)
    weight = logits.new_ones(logits.shape[1]) if weight is None else weight.to(logits.dtype)
    factor = (grad * valid).unsqueeze(1)
    hard = factor * (1 - smoothing) * weight[truth]
    spread = factor * (smoothing / len(weight))
    change = logits.softmax(1).mul_(hard + spread * weight.sum())
    if smoothing:
        change -= spread * weight.view(-1, 1, 1)
    return change.scatter_add_(1, truth, -hard)


def _cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, smoothing: float
) -> Tensor:
    weight = None if weight is None else weight.to(logits.dtype)
    return F.cross_entropy(logits, target, weight, None, ignore_index, None, "none", smoothing)


# Custom operators, so that compilers do not trace into them, and devices can have their own kernels. Before torch 2.5
# their annotations must not be strings: no annotations from __future__ in this module.
OPERATOR = library.custom_op("segkernel::upsample_cross_entropy", tiled, mutates_args=())
BACKWARD = library.custom_op("segkernel::upsample_cross_entropy_backward", tiled_backward, mutates_args=())


@OPERATOR.register_fake
def _(logits: Tensor, target: Tensor, *options: object) -> Tensor:
    return logits.new_empty(target.shape, dtype=torch.promote_types(logits.dtype, torch.float32))


@BACKWARD.register_fake
def _(grad: Tensor, logits: Tensor, *options: object) -> Tensor:
    return torch.empty_like(logits)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    logits, target, weight, *ctx.options = inputs
    ctx.save_for_backward(logits, target, weight)


def _differentiate(ctx, grad):  # type: ignore[no-untyped-def]
    return BACKWARD(grad.contiguous(), *ctx.saved_tensors, *ctx.options), None, None, None, None, None


OPERATOR.register_autograd(_differentiate, setup_context=_keep)
