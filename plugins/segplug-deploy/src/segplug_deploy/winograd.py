"""3x3 convolutions by Winograd's minimal filtering, with a half or a quarter of the multiplications.

    faster = WinogradConv2d.of(conv, nn.ReLU()) if pays(conv) else OneDNNConv2d.of(conv, nn.ReLU())

F(4, 3) of Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016
(https://arxiv.org/abs/1509.09308): along an axis, tiles of six pixels and the filters are evaluated as polynomials at
six points, which turns the convolution into products over the channels at each point, and the four results of a tile
are interpolated from them. Layers of many channels do so along both axes, others along the columns only. A dilated
convolution is several dense ones, of every other row and column. The products are one grouped convolution of oneDNN.
Strips of the image are computed one after the other, so that they stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segplug_deploy.onednn import OneDNNConv2d, runs_in_onednn

POINT = 0.625
"""The points are 0, 1, -1, this one, its negative, and infinity; this one gives the smallest
rounding errors, along both axes four to eight times those of a direct convolution in channels-last layout."""
TILE = 4
"""Results of a tile along an axis."""
STRIP = 1 << 19
"""Values at points, of the input or the result, that are computed together; a row of tiles may have more."""
BLOCK = 256
"""Output channels that are computed together; for more, the layout of the packed weights depends on the image."""
PLAIN: Any = (0, 0), (1, 1), (1, 1)
"""Padding, stride and dilation of the products."""
GROWTH, MAX_WEIGHTS = 4, 5_000_000
"""Transformed weights per weight, and of a layer, unless its input and result are larger; they stay in memory."""
MIN_PIXELS = 256
"""For fewer results, reading the transformed weights takes longer than multiplying by the others."""
MIN_CHANNELS, MIN_CHANNELS_BOTH = 32, 64
"""From these products of input and output channels over their sum, the products of the algorithm along one axis, and
along both, cost more than the additions."""
MIN_BOTH = 1 << 18
"""For fewer results times channels, reading the weights for both axes takes longer than the products that they save."""
Weights = list[tuple[Tensor, Tensor]]
"""Weights, packed by oneDNN, and bias of the products, for each `BLOCK` of output channels."""


def pays(conv: nn.Conv2d) -> bool:
    """Whether a convolution is dense, 3x3 with stride 1, and of enough channels."""
    return (conv.kernel_size, conv.stride, conv.groups) == ((3, 3), (1, 1), 1) and _channels(conv) >= MIN_CHANNELS


def _channels(conv: nn.Conv2d) -> float:
    return conv.in_channels * conv.out_channels / (conv.in_channels + conv.out_channels)


class WinogradConv2d(OneDNNConv2d):
    """A 3x3 convolution and an activation: (N, C, H, W) -> (N, out_channels, H', W').

    The weights for one axis are transformed when it is first called, those for both with the first image that is large
    enough. A small image takes less time than reading them, so that it is left to `OneDNNConv2d`.
    """

    transformed: dict[bool, Weights]
    """By whether they are for both axes."""

    @classmethod
    def of(cls, layer: Any, activation: nn.Module | None = None) -> Any:
        faster = super().of(layer, activation)
        faster.transformed = {}
        return faster

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4 or not runs_in_onednn(input, self.weight) or self._is_too_large(input):
            return super().forward(input)
        pixels = len(input) * math.prod(self._size(input))
        both = _channels(self) >= MIN_CHANNELS_BOTH and pixels * _channels(self) >= MIN_BOTH
        if both not in self.transformed:  # also for a small image: the first one is that of the check
            self.transformed[both] = self.transform(both)
        if min(self._size(input)) <= 0 or pixels < MIN_PIXELS:
            return super().forward(input)
        (down, across), (top, left) = self.dilation, cast("tuple[int, int]", self.padding)
        height, width = self._size(input)
        steps = TILE * down, (TILE if both else 1) * across
        # Whole tiles; the results outside are computed from zeros.
        tiled = [-(-length // step) * step for length, step in zip((height, width), steps, strict=True)]
        result = self.weight.new_empty(len(input), *tiled, self.out_channels)
        for image, plane in zip(input.permute(0, 2, 3, 1), result, strict=True):
            for row in range(down):
                for column in range(across):
                    (above, rows), (before, columns) = _every(down, row - top), _every(across, column - left)
                    self._convolve(image[rows, columns], (above, before), both, plane[row::down, column::across])
        return result[:, :height, :width].contiguous().permute(0, 3, 1, 2)

    def _size(self, input: Tensor) -> list[int]:
        """Return the height and width of the result."""
        sides = zip(input.shape[2:], cast("tuple[int, int]", self.padding), self.dilation, strict=True)
        return [length + 2 * (padding - step) for length, padding, step in sides]

    def _is_too_large(self, input: Tensor) -> bool:
        elements = input.numel() + len(input) * self.out_channels * math.prod(self._size(input))
        return GROWTH * self.weight.numel() > max(elements, MAX_WEIGHTS)

    def _convolve(self, inside: Tensor, before: tuple[int, int], both: bool, results: Tensor) -> None:
        """Write the results (H', W', out_channels) of a dense convolution.

        Args:
            inside: Pixels (H, W, C).
            before: Rows and columns of zeros before them.
            both: Whether the algorithm is along both axes.
            results: A view that is written to.
        """
        (top, left), (height, width) = before, results.shape[:2]
        channels = max(self.in_channels, min(self.out_channels, BLOCK))
        values = width * channels * (9 if both else 6)  # of a row of tiles
        # Each strip reads all weights.
        rows = max(max(STRIP, GROWTH * self.weight.numel() // 4) // values, 1) * TILE
        strips = -(-height // rows)
        rows = -(-height // (strips * TILE)) * TILE
        for start in range(0, height, rows):
            count = min(rows, height - start)
            taken = inside[max(start - top, 0) : max(start - top + count + 2, 0), : max(width + 2 - left, 0)]
            first = max(top - start, 0)
            pixels = inside.new_zeros(count + 2, width + 2, self.in_channels)
            pixels[first : first + len(taken), left : left + taken.shape[1]] = taken
            self._convolve_strip(pixels, both, results[start : start + count])

    def _convolve_strip(self, pixels: Tensor, both: bool, results: Tensor) -> None:
        """Write the results (H', W', out_channels) of pixels (H' + 2, W' + 2, C)."""
        height, width = len(results) // TILE, results.shape[1] // (TILE if both else 1)
        if both:  # pixels (H' + 2, W' / 4, 6, C)
            rows, pixels = pixels, pixels.new_empty(len(pixels), width, 6, self.in_channels)
            _to_points(_tiles(rows, 1), pixels.unbind(2))
        values = pixels.new_empty(height, pixels.shape[1], 6, *pixels.shape[2:])
        _to_points(_tiles(pixels, 0), values.unbind(2))
        values = values.flatten(2).permute(2, 0, 1)[None]
        groups, convolve = values.shape[1] // self.in_channels, torch.ops.mkldnn._convolution_pointwise
        for target, (packed, bias) in zip(results.split(BLOCK, 2), self.transformed[both], strict=True):
            products = convolve(values, packed, bias, *PLAIN, groups, "none", [], "")
            self._interpolate(products[0].permute(1, 2, 0).unflatten(2, (6, -1)), both, target)

    def _interpolate(self, products: Tensor, both: bool, results: Tensor) -> None:
        """Write the results (H', W', channels) that have these values at points, (H' / 4, w, 6, [6] channels)."""
        height, width, channels = *products.shape[:2], results.shape[2]
        results = results.unflatten(0, (height, TILE))
        if both:
            rows = products.new_empty(height, TILE, width, 6 * channels)
            _from_points(products.unbind(2), rows.unbind(1))
            _from_points(rows.unflatten(3, (6, -1)).unbind(3), results.unflatten(2, (width, TILE)).unbind(3))
        else:
            _from_points(products.unbind(2), results.unbind(1))
        if isinstance(self.activation, nn.ReLU):
            results.relu_()
        elif not isinstance(self.activation, nn.Identity):
            results.copy_(self.activation(results))

    def transform(self, both: bool) -> Weights:
        """Return the weights and biases of the products.

        Groups are points: of both axes, or of the columns, with convolutions along the rows.
        """
        points = torch.tensor([0, 1, -1, POINT, -POINT], dtype=torch.float64)
        powers = torch.cat([points[:, None] ** torch.arange(3), torch.tensor([[0.0, 0.0, 1.0]])])
        scales = [math.prod(p - q for q in points.tolist() if p != q) for p in points.tolist()]
        filters = powers / torch.tensor([*scales, 1])[:, None]
        transformed = []
        biases = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias.detach()
        for block, values in zip(self.weight.detach().split(BLOCK), biases.split(BLOCK), strict=True):
            weights = torch.einsum("py,ocyx->pocx", filters, block.double())
            if both:
                weights = torch.einsum("qx,pocx->pqoc", filters, weights)[..., None].flatten(0, 1)
            bias = values.new_zeros(len(weights), len(block))
            bias[7 if both else 1] = values  # every result has the value at the point 1, or 1, 1, once
            weights = weights.float().reshape(-1, self.in_channels, 1, weights.shape[-1])
            shape = [1, len(bias) * self.in_channels, 8, 8]  # of an input; the best layout varies a little with it
            packed = torch.ops.mkldnn._reorder_convolution_weight(weights, *PLAIN, len(bias), shape)
            transformed.append((packed, bias.flatten()))
        return transformed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "transformed": {}}  # packed tensors can be neither copied nor saved


def _every(step: int, start: int) -> tuple[int, slice]:
    """Return how many of the pixels start, start + step, ... lie before the image, and the others."""
    before = max(-(start // step), 0)
    return before, slice(start + before * step, None, step)


def _tiles(pixels: Tensor, dim: int) -> list[Tensor]:
    """Return the first to the sixth of the pixels of every tile along a dimension."""
    count = pixels.shape[dim] - 2
    return [pixels[(slice(None),) * dim + (slice(i, i + count - 3, TILE),)] for i in range(6)]


def _to_points(pixels: Sequence[Tensor], values: Sequence[Tensor]) -> None:
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


def _from_points(values: Sequence[Tensor], pixels: Sequence[Tensor]) -> None:
    """Write the four results whose polynomial has these values at the six points."""
    one, point = values[1] + values[2], values[3] + values[4]
    torch.add(one, point, out=pixels[0]).add_(values[0])
    torch.add(one, point, alpha=POINT**2, out=pixels[2])
    torch.sub(values[1], values[2], out=one)
    torch.sub(values[3], values[4], out=point)
    torch.add(one, point, alpha=POINT, out=pixels[1])
    torch.add(one, point, alpha=POINT**3, out=pixels[3]).add_(values[5])
