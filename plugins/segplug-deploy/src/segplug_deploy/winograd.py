"""3x3 convolutions by Winograd's minimal filtering, with a quarter of the multiplications.

    faster = WinogradConv2d.of(conv, nn.ReLU()) if pays(conv) else OneDNNConv2d.of(conv, nn.ReLU())

F(4x4, 3x3) of Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016
(https://arxiv.org/abs/1509.09308): tiles of 6x6 pixels and the filters are evaluated as polynomials at six points per
axis, which turns the convolution into 36 matrix products over the channels, and a tile of 4x4 results is interpolated
from them. A dilated convolution is several dense ones, of every other row and column. The additions are views and
passes over strips of the image that stay in the cache; oneDNN computes the products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from segplug_deploy.onednn import OneDNNConv2d, runs_in_onednn

POINT = 0.625
"""The points are 0, 1, -1, this one, its negative, and infinity; this one gives the smallest
rounding errors, of four to eight times those of a direct convolution in channels-last layout."""
TILE = 4
"""Height and width in pixels of the results of a tile."""
STRIP = 1 << 17
"""Tiles times channels that are computed together: less than the cache, and than the allocator maps for each call."""
GROWTH = 4
"""Elements of the transformed weights per element of the weights."""
MIN_CHANNELS = 64
"""From this product of input and output channels over their sum, the products cost more than the additions."""


def pays(conv: nn.Conv2d) -> bool:
    """Whether a convolution is dense, 3x3 with stride 1, and of enough channels."""
    total = conv.in_channels * conv.out_channels / (conv.in_channels + conv.out_channels)
    return (conv.kernel_size, conv.stride, conv.groups) == ((3, 3), (1, 1), 1) and total >= MIN_CHANNELS


class WinogradConv2d(OneDNNConv2d):
    """A 3x3 convolution and an activation: (N, C, H, W) -> (N, out_channels, H', W').

    The transformed weights are four times as large. Where that is more than the input and the result, which then take
    little time, it is `OneDNNConv2d`. They are made when they are first used.
    """

    matrices: list[Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or not runs_in_onednn(input, self.weight):
            return super().forward(input)
        size, padding = self._size(input), cast("tuple[int, int]", self.padding)
        count = len(input) * self.out_channels * math.prod(size)
        if min(size) < 1 or GROWTH * self.weight.numel() > input.numel() + count:
            return super().forward(input)
        weights = self._transformed()
        space = self._workspace(input, [-(-length // step) for length, step in zip(size, self.dilation, strict=True)])
        result = input.new_empty(len(input), *size, self.out_channels)
        for image, plane in zip(input.permute(0, 2, 3, 1), result, strict=True):
            for row in range(min(self.dilation[0], size[0])):
                for column in range(min(self.dilation[1], size[1])):
                    (top, rows), (left, columns) = map(_every, self.dilation, (row - padding[0], column - padding[1]))
                    results = plane[row :: self.dilation[0], column :: self.dilation[1]]
                    self._convolve(image[rows, columns], (top, left), weights, results, space)
        return result.permute(0, 3, 1, 2)

    def _size(self, input: Tensor) -> list[int]:
        """Return the height and width of the result."""
        sides = zip(input.shape[2:], cast("tuple[int, int]", self.padding), self.dilation, strict=True)
        return [length + 2 * (padding - step) for length, padding, step in sides]

    def _tiles(self) -> int:
        """Return how many tiles are computed together; more if a row has more."""
        return min(max(STRIP // max(self.in_channels, self.out_channels), 32), 512)

    def _workspace(self, input: Tensor, size: list[int]) -> _Workspace:
        """Return tensors for strips of equal numbers of rows, of a dense convolution with a result of this size."""
        rows, width = (-(-length // TILE) for length in size)
        strips = min(-(-rows * width // self._tiles()), rows)
        height = -(-rows // strips)
        return _Workspace(
            input.new_empty(height * TILE + 2, width * TILE + 2, self.in_channels),
            input.new_empty(6, height, width * TILE + 2, self.in_channels),
            input.new_empty(6, 6, height, width, self.in_channels),
            input.new_empty(TILE, 6, height, width, self.out_channels),
            input.new_empty(height, TILE, width, TILE, self.out_channels),
        )

    def _transformed(self) -> list[Tensor]:
        """Return the 36 matrices of the weights, in the order of `_to_points`, packed by oneDNN."""
        if self.matrices is None:
            points = torch.tensor([0, 1, -1, POINT, -POINT], dtype=torch.float64)
            powers = torch.cat([points[:, None] ** torch.arange(3), torch.tensor([[0.0, 0.0, 1.0]])])
            scales = [math.prod(p - q for q in points.tolist() if p != q) for p in points.tolist()]
            filters = powers / torch.tensor([*scales, 1])[:, None]
            weight, pack = self.weight.detach().double().flatten(2), torch.ops.mkldnn._reorder_linear_weight
            taps = [torch.outer(down, across).flatten() for across in filters for down in filters]
            self.matrices = [pack((weight @ tap).float(), self._tiles()) for tap in taps]
        return self.matrices

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "matrices": None}  # packed tensors can be neither copied nor saved

    def _convolve(
        self,
        inside: Tensor,
        before: tuple[int, int],
        weights: list[Tensor],
        results: Tensor,
        space: _Workspace,
    ) -> None:
        """Write the results (H', W', out_channels) of a dense convolution.

        Args:
            inside: Pixels (H, W, C).
            before: Rows and columns of zeros before them.
            weights: Transformed ones.
            results: A view that is written to.
            space: Overwritten.
        """
        (top, left), (height, width) = before, results.shape[:2]
        strip = space.pixels
        for start in range(0, height, len(strip) - 2):
            taken = inside[max(start - top, 0) : max(start - top + len(strip), 0)]
            first = max(top - start, 0)
            strip.zero_()[first : first + len(taken), left : left + taken.shape[1]] = taken
            tiles = self._convolve_tiles(weights, space)
            target = results[start : start + len(tiles)]
            target.copy_(self.activation(tiles)[: len(target), :width])

    def _convolve_tiles(self, weights: list[Tensor], space: _Workspace) -> Tensor:
        """Return the results (4 h, 4 w, out_channels) of the pixels of a strip, (4 h + 2, 4 w + 2, C)."""
        height, width, channels = space.values.shape[2:]
        _to_points([space.pixels[i : i + TILE * height - 3 : TILE] for i in range(6)], space.rows)
        _to_points([space.rows[:, :, i : i + TILE * width - 3 : TILE] for i in range(6)], space.values)
        multiply = torch.ops.mkldnn._linear_pointwise
        # Each of the 16 results has the value at the points 1, 1 once: what is added there is added to all.
        biases = [self.bias if index == 7 else None for index in range(36)]
        products = [
            multiply(value, weight, bias, "none", [], "").view(height, width, -1)
            for value, weight, bias in zip(
                space.values.view(36, height * width, channels), weights, biases, strict=True
            )
        ]
        for row in range(6):
            _from_points(products[row::6], space.columns[:, row])
        _from_points(space.columns.unbind(1), space.tiles.permute(1, 3, 0, 2, 4))
        return space.tiles.view(height * TILE, width * TILE, -1)


class _Workspace(NamedTuple):
    """Tensors that every strip of h rows of w tiles overwrites, so that they are mapped once."""

    pixels: Tensor
    """(4 h + 2, 4 w + 2, C)"""
    rows: Tensor
    """Values at points along each column: (6, h, 4 w + 2, C)."""
    values: Tensor
    """(6, 6, h, w, C)"""
    columns: Tensor
    """Results along each row, values along each column: (4, 6, h, w, out_channels)."""
    tiles: Tensor
    """(h, 4, w, 4, out_channels)"""


def _every(step: int, start: int) -> tuple[int, slice]:
    """Return how many of the pixels start, start + step, ... lie before the image, and the others."""
    before = max(-(start // step), 0)
    return before, slice(start + before * step, None, step)


def _to_points(pixels: Sequence[Tensor], values: Tensor) -> None:
    """Write the values at the six points of the polynomials that belong to six neighbouring pixels."""
    near, far = values[5], 1 + POINT**2
    for index, point, other in ((1, 1.0, POINT**2), (3, POINT, 1.0)):
        even, odd = values[index], values[index + 1]
        torch.sub(pixels[4], pixels[2], alpha=other, out=near)
        torch.sub(pixels[3], pixels[1], alpha=other, out=odd)
        torch.add(near, odd, alpha=point, out=even)
        torch.sub(near, odd, alpha=point, out=odd)
    torch.sub(pixels[4], pixels[2], alpha=far, out=values[0]).add_(pixels[0], alpha=POINT**2)
    torch.sub(pixels[5], pixels[3], alpha=far, out=values[5]).add_(pixels[1], alpha=POINT**2)


def _from_points(values: Sequence[Tensor], pixels: Tensor) -> None:
    """Write the four results whose polynomial has these values at the six points."""
    one, point = values[1] + values[2], values[3] + values[4]
    torch.add(one, point, out=pixels[0]).add_(values[0])
    torch.add(one, point, alpha=POINT**2, out=pixels[2])
    torch.sub(values[1], values[2], out=one)
    torch.sub(values[3], values[4], out=point)
    torch.add(one, point, alpha=POINT, out=pixels[1])
    torch.add(one, point, alpha=POINT**3, out=pixels[3]).add_(values[5])
