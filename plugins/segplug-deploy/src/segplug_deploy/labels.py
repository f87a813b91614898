"""Class ids of resized logits, without the resized logits of all classes.

    labels = resized_argmax(logits, [((512, 512), (512, 500))])     # (N, K, h, w) -> (N, 512, 500)

Exact: each label is that of ``interpolate`` and ``argmax``. Interpolated values are convex combinations of the logits
around them: a class whose largest one in a cell is below the smallest one of another class cannot win there. Most cells
have one candidate. In the others the candidates are interpolated, and if two differ by no more than rounding, they are
compared by ``interpolate`` itself. On CUDA, a Triton kernel interpolates all classes of a pixel in registers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segkernel.interfaces.model import Output, PixelClasses
from segkernel.nn import upsample_logits
from segplug_deploy.outputs import FEW, has_thresholds

log = logging.getLogger(__name__)

Size = Sequence[int]
Step = tuple[Size, Size]
# Below, torch interpolates several classes at once in another way than one: height + width, and classes.
_SMALL, _UNROLLED = 256, 4
_BAND, _CHUNK = 1 << 18, 1 << 15  # logits, and interpolated values, that fit into the cache
_PIXELS = 1 << 17  # of planes that are compared at once
_COST = 10  # time to interpolate a value here, relative to `interpolate`


class FastPixelClasses(PixelClasses):
    """`PixelClasses` whose fields are computed class by class, or as in `resized_argmax`."""

    def finish(self, raw: Tensor, padded: Size, size: Size, original: Size) -> Tensor:
        if has_thresholds(self):
            planes = (raw[:, index : index + 1] for index in range(raw.shape[1]))
            fields = [PixelClasses.finish(self, plane, padded, size, original) for plane in planes]  # type: ignore[arg-type]
            return torch.cat(fields) if self.task == "multilabel" else fields[0]
        return resized_argmax(raw, [(padded, size), (original, original)], self.align_corners)[0]

    def decode(self, raw: Tensor, activated: bool = False) -> Tensor:
        if has_thresholds(self):
            return super().decode(raw, activated)
        return resized_argmax(raw, [])[0]

    def config(self) -> dict[str, Any]:
        return {**super().config(), "type": PixelClasses.__name__}


def fast_outputs(outputs: Mapping[str, Output]) -> dict[str, Output]:
    """Return outputs by name, those of classes as `FastPixelClasses`."""
    return {
        name: FastPixelClasses(**vars(kind)) if type(kind) is PixelClasses else kind for name, kind in outputs.items()
    }


def resized_argmax(logits: Tensor, steps: Sequence[Step], align_corners: bool = False) -> Tensor:
    """Return the class ids (N, H, W) of the largest logits after ``steps``; uint8 up to 255 classes, else int64.

    Args:
        logits: (N, K, h, w).
        steps: Pairs of sizes (height, width): logits are resized to the first, then cropped at the bottom and right to
            the second.
        align_corners: As in ``interpolate``.
    """
    dtype = torch.uint8 if logits.shape[1] <= FEW else torch.long
    logits, steps = _without_copies(logits.detach(), steps)
    on_cpu = logits.device.type == "cpu"
    if on_cpu and not steps:
        return torch.stack([_argmax_in_parts(image, dtype) for image in logits])
    if on_cpu and logits.shape[1] > _UNROLLED and min(sum(size) for size, _ in steps) > _SMALL:
        largest = float(torch.stack(logits.aminmax()).abs().max())
        if math.isfinite(largest):
            return torch.stack([_argmax(image, steps, align_corners, dtype, largest) for image in logits])
    if logits.device.type == "cuda" and len(steps) == 1 and logits.dtype == torch.float32:
        kernel = _triton_kernel(logits.device)
        if kernel is not None and logits.shape[1] <= kernel.MOST_CLASSES and logits.isfinite().all():
            return kernel.upsampled_argmax(logits, *steps[0], align_corners, dtype)
    return resize_and_crop(logits, steps, align_corners).argmax(1).to(dtype)


@lru_cache
def _triton_kernel(device: torch.device) -> Any:
    """Return the module of the kernel for this device; None where Triton is missing or the kernel fails."""
    try:
        from segplug_deploy import triton_labels

        triton_labels.compare(device)
    except Exception as error:  # of any kind: Triton compiles here, with the system's compiler and driver
        log.warning("no Triton kernel for labels; torch upsamples the logits of all classes: %s", error)
        return None
    return triton_labels


def _without_copies(logits: Tensor, steps: Sequence[Step]) -> tuple[Tensor, list[Step]]:
    """Return logits and the steps that resize them; a step to the size that they have only crops."""
    kept_steps: list[Step] = []
    current = tuple(logits.shape[2:])
    for size, kept in steps:
        if tuple(size) != current:
            kept_steps.append((size, kept))
        elif kept_steps:
            kept_steps[-1] = kept_steps[-1][0], kept
        else:
            logits = logits[..., : kept[0], : kept[1]]
        current = tuple(kept)
    return logits, kept_steps


def _argmax_in_parts(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the class ids (H, W) of logits (K, H, W), in a fraction of the time of ``argmax`` over strided planes."""
    labels, rows = torch.zeros(logits.shape[1:], dtype=dtype), max(_PIXELS // logits.shape[2], 1)
    for part, chosen in zip(logits.split(rows, 1), labels.split(rows)):
        best = torch.full_like(part[0], -torch.inf)
        _keep_largest(enumerate(part), best, chosen)
        if best.isnan().any():
            chosen.copy_(part.argmax(0))
    return labels


def _keep_largest(planes: Iterable[tuple[int, Tensor]], best: Tensor, chosen: Tensor) -> None:
    """Write the largest of values into ``best`` and their labels, which ascend, into ``chosen``."""
    for label, value in planes:
        torch.maximum(chosen, (value > best).to(chosen.dtype).mul_(label), out=chosen)
        torch.maximum(best, value, out=best)


def resize_and_crop(logits: Tensor, steps: Sequence[Step], align_corners: bool) -> Tensor:
    """Return logits (N, K, H, W) after the ``steps`` of `resized_argmax`."""
    logits = logits.contiguous()  # torch rounds another layout in another way
    for size, kept in steps:
        logits = upsample_logits(logits, size, align_corners)[..., : kept[0], : kept[1]]
    return logits


class _Axis(NamedTuple):
    """Interpolation along one axis, whose logits are padded on both sides by the number of taps less one.

    Args:
        cell: For each pixel the first of the logits that it is interpolated from; ascending.
        place: Its number among the pixels of this cell.
        weights: (taps, places, cells).
    """

    cell: Tensor
    place: Tensor
    weights: Tensor

    def part(self, start: int, stop: int) -> tuple[slice, _Axis]:
        """Return the pixels of some cells, and the part of the axis."""
        first, last = torch.searchsorted(self.cell, torch.tensor([start, stop])).tolist()
        pixels = slice(first, last)
        return pixels, _Axis(self.cell[pixels] - start, self.place[pixels], self.weights[..., start:stop])


@lru_cache(maxsize=32)  # of a folder of images of equal sizes
def _axis(size: int, dtype: torch.dtype, steps: tuple[tuple[int, int], ...], align_corners: bool) -> _Axis:
    """Return the interpolation of ``size`` logits by steps along one axis."""
    sizes = [((large, 1), (kept, 1)) for large, kept in steps]

    def resized(lines: Tensor) -> Tensor:  # (lines, size) -> (lines, pixels)
        return resize_and_crop(lines[None, :, :, None], sizes, align_corners)[0, :, :, 0]

    # Each line is 1 at every ``period``-th logit, of which a pixel has at most one among those that it is made of.
    period, order = min(size, _period(size, steps)), torch.arange(size)
    combs = resized((order % period == torch.arange(period)[:, None]).to(dtype))
    middle, line = resized(order[None].double()), torch.arange(period)[:, None]
    logit = line + period * ((middle - line) / period).round().long()  # the nearest of each line
    used = combs != 0
    first, last = logit.where(used, size).amin(0), logit.where(used, -1).amax(0)
    pad = int((last - first).max())
    # Pixels of the first logit alone belong to the cell before it, so that no cell has more pixels than others.
    cell = (first + pad).masked_fill_((logit[0] == 0) & (combs[0] == 1), 0)
    taps = cell - pad + torch.arange(pad + 1)[:, None]
    outside = logit.gather(0, taps % period) != taps
    place = torch.arange(len(cell)) - torch.searchsorted(cell, cell)
    weights = combs.new_full((pad + 1, int(place.max()) + 1, size + pad), 1 / (pad + 1))  # also where no pixel is
    weights[:, place, cell] = combs.gather(0, taps % period).masked_fill_(outside, 0)
    return _Axis(cell, place, weights)


def _period(size: int, steps: Iterable[tuple[int, int]]) -> int:
    """Return more than twice the number of neighbouring logits that any pixel is interpolated from."""
    reach, step = 1.0, 1.0  # of a pixel in logits, and from one pixel to the next
    for large, kept in steps:
        reach, size, step = reach + step, kept, step * max(size / large, (size - 1) / max(large - 1, 1))
    return 2 * math.ceil(reach) + 4


def _padded(logits: Tensor, pads: tuple[int, int]) -> Tensor:
    """Repeat the first and the last rows and columns of logits (K, h, w)."""
    classes, height, width = logits.shape
    rows, columns = (slice(pad, pad + size) for pad, size in zip(pads, (height, width)))
    padded = logits.new_empty((classes, height + 2 * pads[0], width + 2 * pads[1]))
    padded[:, rows, columns] = logits
    padded[:, rows, : columns.start], padded[:, rows, columns.stop :] = logits[..., :1], logits[..., -1:]
    padded[:, : rows.start], padded[:, rows.stop :] = padded[:, rows][:, :1], padded[:, rows][:, -1:]
    return padded


def _argmax(logits: Tensor, steps: Sequence[Step], align_corners: bool, dtype: torch.dtype, largest: float) -> Tensor:
    """Return the class ids (H, W) of logits (K, h, w); ``largest`` is the largest magnitude."""
    labels = torch.zeros(tuple(steps[-1][1]), dtype=dtype)
    unsure, contenders = torch.ones_like(labels, dtype=torch.bool), torch.ones(len(logits), dtype=torch.bool)
    if torch.finfo(logits.dtype).bits >= 32:  # others are equal too often
        _decide_by_bounds(logits, steps, align_corners, largest, labels, unsure, contenders)
    pixels: Any = unsure.flatten().nonzero()[:, 0]
    if 4 * len(pixels) > labels.numel():
        pixels, contenders = slice(None), torch.ones_like(contenders)
    best = logits.new_full(labels.view(-1)[pixels].shape, -torch.inf)
    chosen = torch.zeros_like(best, dtype=dtype)
    planes = ((label, logits[None, label : label + 1]) for label in contenders.nonzero()[:, 0].tolist())
    values = ((label, resize_and_crop(plane, steps, align_corners).flatten()[pixels]) for label, plane in planes)
    _keep_largest(values, best, chosen)
    labels.view(-1)[pixels] = chosen
    return labels


def _decide_by_bounds(
    logits: Tensor,
    steps: Sequence[Step],
    align_corners: bool,
    largest: float,
    labels: Tensor,
    unsure: Tensor,
    contenders: Tensor,
) -> None:
    """Write the class ids of `_argmax` into ``labels``, where `interpolate` must decide into ``unsure``, and which
    classes may win there into ``contenders`` (K,)."""
    unsure.zero_()
    contenders.zero_()
    rows, columns = (
        _axis(size, logits.dtype, tuple((large[dim], kept[dim]) for large, kept in steps), align_corners)
        for dim, size in enumerate(logits.shape[1:])
    )
    # Twice the rounding errors of torch's interpolation and of this one.
    margin = 16 * len(steps) * torch.finfo(logits.dtype).eps * largest
    padded = _padded(logits, (len(rows.weights) - 1, len(columns.weights) - 1))
    step = max(_BAND // padded[:, 0].numel(), 1)
    for top in range(0, rows.weights.shape[2], step):
        pixels, band = rows.part(top, top + step)
        if pixels.start < pixels.stop:
            part = padded[:, top : top + sum(band.weights.shape[::2]) - 1]
            found, close = _decide(part, band, columns, margin, labels.dtype, contenders)
            labels[pixels] = _spread(found, band, columns)
            if close.any():
                unsure[pixels] = _spread(close, band, columns)


def _decide(
    part: Tensor, rows: _Axis, columns: _Axis, margin: float, dtype: torch.dtype, contenders: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the class ids of cells (places, places, rows, columns), and where `interpolate` must decide.

    ``contenders``, of each class whether it may win there, is updated.
    """
    shape = rows.weights.shape[1], columns.weights.shape[1], rows.weights.shape[2], columns.weights.shape[2]
    smallest, largest = (_over_cells(function, part, rows, columns) for function in (torch.minimum, torch.maximum))
    candidates = (largest >= smallest.amax(0) - margin).flatten(1)
    label = candidates.T.nonzero(as_tuple=True)[1]  # of each cell, in order
    count = candidates.sum(0)
    start = count.cumsum(0) - count
    labels = label.to(dtype)[start].expand(*shape[:2], -1).clone()
    unsure = torch.zeros_like(labels, dtype=torch.bool)
    undecided = (count > 1).nonzero()[:, 0]
    if _COST * int(count[undecided].sum()) > candidates.numel():
        unsure.index_fill_(2, undecided, True)
        contenders.fill_(True)
        undecided = undecided[:0]
    order = undecided[count[undecided].argsort(descending=True)]
    for cells in order.split(_CHUNK // (shape[0] * shape[1]) + 1) if len(order) else ():
        values = partial(_interpolated, part, rows, columns, count=count, start=start, label=label)
        best, second = part.new_full((2, *shape[:2], len(cells)), -torch.inf)
        chosen = torch.zeros_like(best, dtype=dtype)
        for classes, value in values(cells):
            top, below, choice = (each[..., : len(classes)] for each in (best, second, chosen))
            torch.maximum(below, torch.minimum(top, value), out=below)
            choice.copy_(torch.where(value > top, classes.to(dtype), choice))
            torch.maximum(top, value, out=top)
        labels.index_copy_(2, cells, chosen)
        close = best - second <= margin
        if close.any():
            unsure.index_copy_(2, cells, close)
            found = close.flatten(0, 1).any(0)
            close, best = close[..., found], best[..., found] - margin
            for classes, value in values(cells[found]):
                near = close[..., : len(classes)] & (value >= best[..., : len(classes)])
                contenders[classes[near.flatten(0, 1).any(0)]] = True
    return labels.view(shape), unsure.view(shape)


def _over_cells(function: Callable[[Tensor, Tensor], Tensor], part: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Return the smallest or the largest logit (K, rows, columns) of each class in each cell."""
    for dim, axis in ((1, rows), (2, columns)):
        part = reduce(function, part.unfold(dim, len(axis.weights), 1).unbind(-1))
    return part


def _interpolated(
    part: Tensor, rows: _Axis, columns: _Axis, cells: Tensor, count: Tensor, start: Tensor, label: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the next candidate of each cell that has one, and its values (places, places, cells)."""
    row, column = cells // columns.weights.shape[2], cells % columns.weights.shape[2]
    vertical, horizontal = rows.weights[..., row], columns.weights[..., column]
    plane, width, _ = part.stride()
    corner, flat = row * width + column, part.as_strided((part.stride(0) * len(part) - part.storage_offset(),), (1,))
    count, start = count[cells], start[cells]
    for rank in range(int(count[0])):
        number = int((count > rank).sum())
        classes = label[start[:number] + rank]
        at = corner[:number] + classes * plane
        lines = []
        for row_tap in range(len(vertical)):
            taps = [flat[at + (row_tap * width + tap)] for tap in range(len(horizontal))]
            lines.append(_weighted(horizontal[..., :number], taps))
        yield classes, _weighted(vertical[:, :, None, :number], lines)


def _weighted(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:]):
        total = torch.addcmul(total, weight, value)
    return total


def _spread(cells: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Return the pixels (H, W) of values of cells (places, places, rows, columns)."""
    blocks = cells.permute(2, 0, 3, 1).flatten(2).flatten(0, 1)
    for dim, axis in ((0, rows), (1, columns)):
        index = axis.cell * axis.weights.shape[1] + axis.place
        first, count = int(index[0]), len(index)
        whole = int(index[-1]) - first == count - 1  # no place is empty
        blocks = blocks.narrow(dim, first, count) if whole else blocks.index_select(dim, index)
    return blocks
