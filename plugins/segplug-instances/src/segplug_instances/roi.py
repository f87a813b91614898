"""Features of regions: RoIAlign (He et al., Mask R-CNN, 2017), RoIPool (Girshick, Fast R-CNN, 2015) and RoICrop.

Each output cell is a weighted sum or the maximum over a bag of positions of a feature map, which are rows of the map as
a matrix (N * H * W, C). ``embedding_bag`` reduces bags without a copy of their rows, so that memory grows with the
number of positions, not with the features in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, embedding_bag, grid_sample, max_pool2d

from segplug_instances.backends import torchvision_ops, triton_ops
from segplug_instances.boxes import area
from segplug_instances.conventions import Convention, ConventionName, convention_of
from segplug_instances.tracing import is_exporting, while_loop

_MOST_POSITIONS = 1 << 21  # in bags that are reduced at once; their indices and weights take about 100 MB


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
) -> Tensor:
    """Return bilinear samples of features (N, C, H, W), averaged over the cells of each region: (R, C, h, w).

    Args:
        features: Feature maps.
        rois: (R, 5): index of the image, then x1, y1, x2, y2 in pixels. They get no gradient.
        output_size: Cells of a region, (h, w).
        spatial_scale: Feature positions per pixel.
        sampling_ratio: Samples per cell and axis; 0 for as many as a cell has feature positions, rounded up.
        aligned: Whether coordinates are moved by half a feature position, so that a region is sampled where it is.
            Otherwise they are not, and a region is at least one position wide and high.
    """
    cells, ops = _pair(output_size), torchvision_ops(features)
    if ops is not None:
        return ops.roi_align(features, rois.to(features.dtype), cells, spatial_scale, sampling_ratio, aligned)
    return align(features, rois, cells, spatial_scale, sampling_ratio, aligned, triton_ops(features))


def align(
    features: Tensor,
    rois: Tensor,
    cells: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    kernels: Any = None,
) -> Tensor:
    """Return what `roi_align` returns, computed by torch, or by `segplug_instances.triton_ops` as ``kernels``."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    rois = rois.detach().to(dtype)
    first = _image_start(rois, features)
    start, stop = (_corners(rois) * spatial_scale - (0.5 if aligned else 0.0)).unbind(1)
    extent = stop - start if aligned else (stop - start).clamp(min=1)
    counts = (extent / extent.new_tensor(cells)).ceil().clamp(min=0).long()
    counts = torch.full_like(counts, sampling_ratio) if sampling_ratio else counts
    if kernels is not None:
        matrix, size = _matrix(features, features.dtype), (features.shape[2], features.shape[3])
        return kernels.roi_cells(matrix, first, size, start, extent / extent.new_tensor(cells), counts, cells).movedim(
            -1, 1
        )
    matrix, sides = _matrix(features, dtype), _sides(features, rois)

    def axes(part: slice, samples: Sequence[Tensor]) -> tuple[_Axis, _Axis]:
        y, x = (
            _samples(start[part, i], extent[part, i], counts[part, i], samples[i], cells[i], sides[i]) for i in (0, 1)
        )
        return y, x

    def pool(part: slice) -> Tensor:
        most = [sampling_ratio or (int(each.max()) if len(each) else 0) for each in counts[part].unbind(1)]
        y, x = axes(part, [torch.arange(each, device=counts.device) for each in most])
        sums = _reduce(matrix, first[part], sides[1].long(), y, x, "sum", ragged=sampling_ratio == 0)
        return sums / _totals(counts[part])

    def add_sample(number: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        y, x = axes(slice(None), (number // columns, number % columns))
        return number + 1, total + _interpolate(matrix, first, sides[1].long(), y, x)

    if not is_exporting():
        return _in_parts(pool, 4 * math.prod(cells) * counts.prod(1)).to(features.dtype)
    if sampling_ratio:
        return _sampled_by_grid(features, start, extent, cells, sampling_ratio)
    rows, columns = (torch.cat([each, each.new_ones(1)]).amax(0, keepdim=True) for each in counts.unbind(1))
    state = torch.zeros_like(rows), matrix.new_zeros(rois.shape[0], *cells, matrix.shape[1])
    state = while_loop(lambda number, total: (number < rows * columns).all(), add_sample, state)
    return (state[1].movedim(-1, 1) / _totals(counts)).to(features.dtype)


def align_plane(plane: Tensor, boxes: Tensor, side: int, aligned: bool) -> Tensor:
    """Return what `roi_align` returns for boxes (n, 4) of one plane (H, W), (n, side, side) float32.

    Rows and columns are averaged one after the other, by products of matrices: faster for one large plane.
    """
    start, stop = (boxes.float().unflatten(1, (2, 2)).flip(2) - (0.5 if aligned else 0.0)).unbind(1)
    extent = stop - start if aligned else (stop - start).clamp(min=1)
    counts = (extent / side).ceil().clamp(min=0).long()
    weights, spans = [], []
    for i, size in enumerate(plane.shape):
        sample = torch.arange(int(counts[:, i].max()), device=plane.device)
        axis = _samples(start[:, i], extent[:, i], counts[:, i], sample, side, torch.tensor(size, device=plane.device))
        dense = extent.new_zeros(len(boxes), side, size).scatter_add(2, axis.index, axis.weight)
        read = dense.amax((0, 1)).nonzero()[:, 0]
        spans.append(slice(int(read.min()), int(read.max()) + 1) if len(read) else slice(0))
        weights.append(dense[..., spans[-1]])
    with torch.autocast(plane.device.type, enabled=False):
        return weights[0] @ plane[spans[0], spans[1]].float() @ weights[1].mT / _totals(counts)[:, 0]


def _totals(counts: Tensor) -> Tensor:
    """Return the samples of a cell of each region (R, 1, 1, 1), of their counts along both axes (R, 2)."""
    return counts.prod(1).clamp(min=1)[:, None, None, None]


def _sampled_by_grid(
    features: Tensor, start: Tensor, extent: Tensor, cells: tuple[int, int], sampling_ratio: int
) -> Tensor:
    """Return what `align` returns for regions of one image, with few operators, for exported graphs."""
    axes = []
    for i in (1, 0):
        steps = (torch.arange(cells[i] * sampling_ratio, device=start.device) + 0.5) / sampling_ratio
        place, size = start[:, i, None] + steps * (extent[:, i, None] / cells[i]), features.shape[2 + i]
        inside = (place >= -1) & (place <= size)
        axes.append((place.clamp(0, size - 1) / max(size - 1, 1) * 2 - 1, inside))
    (x, in_x), (y, in_y) = axes
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), -1)
    samples = grid_sample(features, grid.flatten(0, 1)[None], align_corners=True)[0].unflatten(1, (-1, y.shape[1]))
    samples = samples * (in_y[:, :, None] & in_x[:, None])
    return avg_pool2d(samples.movedim(1, 0), sampling_ratio)


def roi_pool(features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float = 1.0) -> Tensor:
    """Return the maxima of features (N, C, H, W) in the cells of each region, (R, C, h, w); 0 in an empty cell.

    Regions are rounded to feature positions, and the last one belongs to them. See `roi_align` for the arguments.
    """
    ops = torchvision_ops(features)
    if ops is not None:
        return ops.roi_pool(features, rois.to(features.dtype), _pair(output_size), spatial_scale)
    return max_pool(features, rois, _pair(output_size), spatial_scale)


def max_pool(features: Tensor, rois: Tensor, cells: tuple[int, int], spatial_scale: float) -> Tensor:
    """Return what `roi_pool` returns, computed by torch."""
    rois, matrix = rois.detach().float(), _matrix(features, features.dtype)
    first = _image_start(rois, features)
    corners = _corners(rois) * spatial_scale
    start, stop = (corners + 0.5 * corners.sign()).trunc().unbind(1)  # halves away from zero, as C's round
    extent = (stop - start + 1).clamp(min=1)
    if is_exporting():
        sides = _sides(features, rois)
        bounds = [_bounds(start[:, i], extent[:, i], cells[i], sides[i]) for i in (0, 1)]
        return _maxima(matrix, first, sides, *bounds).movedim(-1, 1)

    def pool(part: slice) -> Tensor:
        y, x = (_spans(start[part, i], extent[part, i], cells[i], features.shape[2 + i]) for i in (0, 1))
        return _reduce(matrix, first[part], features.shape[3], y, x, "max", ragged=True)

    return _in_parts(pool, (extent + 2 * extent.new_tensor(cells)).prod(1).long())


def _maxima(
    matrix: Tensor, start: Tensor, sides: Sequence[Tensor], y: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the maxima (R, h, w, C) of cells, one position of each at a time, for exported graphs.

    Args:
        matrix: Features (positions, C).
        start: First position of the image of each region, (R,) int64.
        sides: Height and width of the feature map.
        y: First row, and the one after the last, of each cell, (R, h) int64.
        x: The same for columns, (R, w).
    """
    height, width = (side.long() for side in sides)
    rows, columns = (torch.cat([(last - first).flatten(), first.new_ones(1)]).amax(0, True) for first, last in (y, x))
    filled = (y[1] > y[0])[:, :, None] & (x[1] > x[0])[:, None]
    lowest = torch.where(filled, -math.inf, 0.0).to(matrix.dtype)[..., None]

    def compare(number: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
        row, column = y[0] + number // columns, x[0] + number % columns
        inside = (row < y[1])[:, :, None] & (column < x[1])[:, None]
        place = row.minimum(height - 1)[:, :, None] * width + column.minimum(width - 1)[:, None]
        values = matrix[start[:, None, None] + place]
        return number + 1, torch.where(inside[..., None], best.maximum(values), best)

    state = torch.zeros_like(rows), lowest.expand(-1, -1, -1, matrix.shape[1]).clone()
    return while_loop(lambda number, best: (number < rows * columns).all(), compare, state)[1]


def roi_crop(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    max_pool: bool = True,
) -> Tensor:
    """Return bilinear samples of features (N, C, H, W) on a grid between the corners of each region, (R, C, h, w).

    Args:
        features: Feature maps; 0 outside.
        rois: As in `roi_align`.
        output_size: Cells of a region, (h, w).
        spatial_scale: Feature positions per pixel.
        max_pool: Whether the grid has twice as many points, of which the maxima of 2 x 2 are taken.
    """
    points, dtype = [size * (2 if max_pool else 1) for size in _pair(output_size)], torch.float32
    dtype = torch.promote_types(features.dtype, dtype)
    rois, matrix = rois.detach().to(dtype), _matrix(features, dtype)
    first = _image_start(rois, features)
    start, stop = (_corners(rois) * spatial_scale).unbind(1)
    sides = _sides(features, rois)
    if is_exporting():
        crops = _cropped_by_grid(features, start, stop, points)
        return max_pool2d(crops, 2) if max_pool else crops

    def pool(part: slice) -> Tensor:
        y, x = (_grid(start[part, i], stop[part, i], points[i], sides[i]) for i in (0, 1))
        return _reduce(matrix, first[part], features.shape[3], y, x, "sum", ragged=False)

    crops = _in_parts(pool, torch.full_like(first, 4 * math.prod(points))).to(features.dtype)
    return max_pool2d(crops, 2) if max_pool else crops


def _cropped_by_grid(features: Tensor, start: Tensor, stop: Tensor, points: Sequence[int]) -> Tensor:
    """Return samples (R, C, h, w) between the corners of regions of one image, for exported graphs."""
    y, x = (
        (2 * _places(start[:, i], stop[:, i], points[i]) + 1) / features.shape[2 + i] - 1 for i in (0, 1)
    )  # pixels are as wide as their distance: a map of one row or column is sampled, too
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), -1)
    samples = grid_sample(features, grid.flatten(0, 1)[None], align_corners=False)[0]
    return samples.unflatten(1, (-1, points[0])).movedim(1, 0)


def by_image(values: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
    """Return the rows of ``values`` (sum of n, ...) that belong to the boxes (n, 4) of each image."""
    if len(boxes) == 1:  # torch.export cannot split by a number of boxes that depends on values
        return [values]
    return list(values.split([len(each) for each in boxes]))


class RoIPooler:
    """Features of boxes, each from the level of a pyramid that fits its size (Lin et al., FPN, 2017).

    Args:
        output_size: Cells of a region, (h, w).
        strides: Pixels per position of each feature map, which double from one to the next.
        sampling_ratio: As in `roi_align`.
        kind: ``align``, ``pool`` or ``crop``.
        aligned: As in `roi_align`.
        convention: The size of a box, and how it is compared.
        canonical_size: Side in pixels of a box of the canonical level.
        canonical_level: Logarithm to base 2 of the stride of that level.
    """

    conformance: ClassVar[Any] = {"output_size": 7, "strides": [4, 8]}

    def __init__(
        self,
        output_size: int | tuple[int, int],
        strides: Sequence[int],
        sampling_ratio: int = 2,
        kind: Literal["align", "pool", "crop"] = "align",
        aligned: bool = False,
        convention: ConventionName = "torchvision",
        canonical_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        self.output_size, self.strides, self.sampling_ratio = _pair(output_size), list(strides), sampling_ratio
        self.kind, self.aligned, self.convention = kind, aligned, convention_of(convention)
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def __call__(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return the features (sum of n, C, h, w) of boxes, a tensor (n, 4) for each image, in their order."""
        images = [torch.full_like(each[:, :1], image) for image, each in enumerate(boxes)]
        rois = torch.cat([torch.cat(pair, 1) for pair in zip(images, boxes)])
        if len(features) == 1:
            return self._pool(features[0], rois, self.strides[0])
        least, most = (round(math.log2(self.strides[i])) for i in (0, -1))
        levels = assign_levels(
            rois[:, 1:], least, most, self.convention, self.canonical_size, self.canonical_level
        )  # fmt: skip
        rows = [(levels == level).nonzero()[:, 0] for level in range(least, most + 1)]
        parts = [self._pool(each, rois[row], stride) for each, row, stride in zip(features, rows, self.strides)]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def _pool(self, features: Tensor, rois: Tensor, stride: int) -> Tensor:
        if self.kind == "align":
            return roi_align(features, rois, self.output_size, 1 / stride, self.sampling_ratio, self.aligned)
        return (roi_pool if self.kind == "pool" else roi_crop)(features, rois, self.output_size, 1 / stride)


def assign_levels(
    boxes: Tensor,
    least: int,
    most: int,
    convention: Convention,
    canonical_size: int = 224,
    canonical_level: int = 4,
) -> Tensor:
    """Return the level of each of the boxes (n, 4): the logarithm of its stride, from ``least`` to ``most``, int64."""
    size, epsilon = area(boxes, convention).sqrt() / canonical_size, convention.level_epsilon
    if convention.level_epsilon_in_log:
        level = canonical_level + (size + epsilon).log2()
    else:
        level = canonical_level + size.log2() + epsilon
    return level.floor().clamp(least, most).long()


@dataclass(frozen=True)
class _Axis:
    """Positions along one axis that the cells of regions read; those from ``count`` on only fill the tensors."""

    index: Tensor  # (R, cells, k) int64
    weight: Tensor  # (R, cells, k)
    count: Tensor  # (R, cells) int64


def _samples(start: Tensor, extent: Tensor, count: Tensor, sample: Tensor, cells: int, size: Tensor) -> _Axis:
    """Return the neighbours of samples (k,), numbered from 0 to ``count`` (R,) - 1, in each cell."""
    sides, count, sample = (extent / cells)[:, None, None], count[:, None, None], sample.to(start)
    cell = torch.arange(cells, device=start.device)[:, None]
    place = start[:, None, None] + cell * sides + (sample + 0.5) * sides / count.clamp(min=1)
    inside = (place >= -1) & (place <= size) & (sample < count)
    index, weight = _neighbours(place.clamp(min=0).minimum(size - 1), size)
    weight = weight * inside.repeat_interleave(2, 2)
    return _Axis(index, weight, (2 * count[..., 0]).expand(-1, cells))


def _grid(start: Tensor, stop: Tensor, points: int, size: Tensor) -> _Axis:
    """Return the neighbours of ``points`` from ``start`` to ``stop`` (R,)."""
    index, weight = _neighbours(_places(start, stop, points)[..., None], size)
    return _Axis(index, weight, torch.full_like(index[..., 0], 2))


def _places(start: Tensor, stop: Tensor, points: int) -> Tensor:
    """Return (R, points) from ``start`` to ``stop`` (R,)."""
    share = torch.linspace(0, 1, points, dtype=start.dtype, device=start.device)
    return torch.lerp(start[:, None], stop[:, None], share)


def _neighbours(place: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two positions beside each place (R, cells, k) and their weights, 0 outside the map, (R, cells, 2k)."""
    low = place.floor()
    index, weight = torch.stack([low, low + 1], -1), torch.stack([low + 1 - place, place - low], -1)
    weight = weight * ((index >= 0) & (index < size))
    return index.clamp(min=0).minimum(size - 1).long().flatten(2), weight.flatten(2)


def _spans(start: Tensor, extent: Tensor, cells: int, size: int) -> _Axis:
    """Return all positions of each cell of regions that start at ``start`` (R,)."""
    first, last = _bounds(start, extent, cells, start.new_tensor(size))
    count = last - first
    index = first[..., None] + torch.arange(int(count.max()) if len(count) else 0, device=start.device)
    return _Axis(index, torch.ones_like(index), count)


def _bounds(start: Tensor, extent: Tensor, cells: int, size: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first position of each cell, and the one after its last, (R, cells) int64."""
    cell, sides = torch.arange(cells, device=start.device), (extent / cells)[:, None]
    first, last = (cell * sides).floor(), ((cell + 1) * sides).ceil()
    low, high = ((start[:, None] + each).clamp(min=0).minimum(size).long() for each in (first, last))
    return low, high


def _reduce(matrix: Tensor, start: Tensor, width: int | Tensor, y: _Axis, x: _Axis, mode: str, ragged: bool) -> Tensor:
    """Return the sum or maximum of rows of a matrix in each cell, (R, C, h, w).

    Args:
        matrix: Features (positions, C).
        start: First position of the image of each region, (R,) int64.
        width: Positions in a row of the feature map.
        y: Rows of the feature map.
        x: Columns.
        mode: ``sum``, weighted, or ``max``.
        ragged: Whether cells differ in the number of their positions.
    """
    shape = len(start), y.count.shape[1], x.count.shape[1]
    if ragged:
        counts = (y.count[:, :, None] * x.count[:, None]).flatten()
        ends = counts.cumsum(0)
        bag = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        place = torch.arange(len(bag), device=bag.device) - (ends - counts)[bag]
        columns = x.count.repeat_interleave(shape[1], 0).flatten()[bag]
        region, row, column = bag // (shape[1] * shape[2]), bag // shape[2], bag % shape[2]
        in_y = row * y.index.shape[2] + place // columns
        in_x = (region * shape[2] + column) * x.index.shape[2] + place % columns
        index = start[region] + y.index.flatten()[in_y] * width + x.index.flatten()[in_x]
        weight, offsets = y.weight.flatten()[in_y] * x.weight.flatten()[in_x], ends - counts
    else:
        rows, columns = y.index[:, :, None, :, None] * width, x.index[:, None, :, None]
        index = (start[:, None, None, None, None] + rows + columns).flatten(0, 2).flatten(1)
        weight = (y.weight[:, :, None, :, None] * x.weight[:, None, :, None]).flatten(0, 2).flatten(1)
        offsets = None
    weights = weight if mode == "sum" else None
    cells = embedding_bag(index, matrix, offsets, mode=mode, per_sample_weights=weights)
    return cells.unflatten(0, shape).movedim(-1, 1)


def _interpolate(matrix: Tensor, start: Tensor, width: Tensor, y: _Axis, x: _Axis) -> Tensor:
    """Return the weighted sum (R, h, w, C) of the two by two rows of a matrix that each cell reads; see `_reduce`."""
    total = torch.zeros((), dtype=matrix.dtype, device=matrix.device)
    for row in (0, 1):
        for column in (0, 1):
            index = start[:, None, None] + y.index[:, :, None, row] * width + x.index[:, None, :, column]
            weight = y.weight[:, :, None, row] * x.weight[:, None, :, column]
            total = total + matrix[index] * weight[..., None]
    return total


def _in_parts(pool: Callable[[slice], Tensor], positions: Tensor) -> Tensor:
    """Return the results of ``pool`` on regions, so many at once that their positions (R,) are not too many."""
    if positions.sum() <= _MOST_POSITIONS:
        return pool(slice(None))
    part = positions.cumsum(0) // _MOST_POSITIONS
    stops = part.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
    return torch.cat([pool(slice(start, stop)) for start, stop in zip([0, *stops], stops)])


def _matrix(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Return features (N, C, H, W) as rows (N * H * W, C), each contiguous: ``embedding_bag`` is slow on others."""
    return features.movedim(1, -1).flatten(0, 2).to(dtype).contiguous()


def _corners(rois: Tensor) -> Tensor:
    """Return the corners (R, 2, 2): first, last; y, x."""
    return rois[:, 1:].unflatten(1, (2, 2)).flip(2)


def _sides(features: Tensor, like: Tensor) -> list[Tensor]:
    """Return height and width of feature maps as tensors, which a loop in a traced graph can read."""
    return [torch.scalar_tensor(side, dtype=like.dtype, device=like.device) for side in features.shape[2:]]


def _image_start(rois: Tensor, features: Tensor) -> Tensor:
    return rois[:, 0].long() * math.prod(features.shape[2:])


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
