"""Convolutions one after the other, computed in strips of rows where the maps between them are large.

    faster = ConvChain([conv1, conv2, conv3])

The maps between them then take the memory of a strip, which stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segplug_deploy.onednn import OneDNNConv2d

LARGE = 1 << 21
"""Elements from which a map is computed in strips."""
STRIP, MIN_ROWS = 1 << 21, 32
"""Elements of the largest map of a strip, and rows of its result where neighbouring strips compute some rows twice."""
MAX_WEIGHTS = 1_250_000
"""Weights of a layer that are read for each strip."""
Rows = tuple[int, int]


class ConvChain(nn.Module):
    """Convolutions, each the only one that uses the result before it: (N, C, H, W) -> (N, out_channels, H', W')."""

    def __init__(self, layers: Sequence[OneDNNConv2d]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 4 and not torch.is_grad_enabled() and not torch.jit.is_tracing():
            for layers in self._parts(input):
                input = _in_strips(layers, input)
            return input
        for layer in self.layers:
            input = layer(input)
        return input

    def _parts(self, input: Tensor) -> Iterator[list[OneDNNConv2d]]:
        """Yield layers in order, those with large maps between them together."""
        part: list[Any] = []
        size = tuple(input.shape[2:])
        layer: Any
        for layer in self.layers:
            part.append(layer)
            size = _size(layer, size)
            # Many weights would take longer to read for each strip.
            if len(input) * layer.out_channels * size[0] * size[1] <= LARGE or layer.weight.numel() > MAX_WEIGHTS:
                yield part
                part = []
        if part:
            yield part


def _in_strips(layers: Sequence[Any], input: Tensor) -> Tensor:
    """Return the result (N, out_channels, H', W') of convolutions."""
    sizes = [tuple(input.shape[2:])]
    for layer in layers:
        sizes.append(_size(layer, sizes[-1]))
    largest = max((len(input) * layer.out_channels * h * w for layer, (h, w) in zip(layers, sizes[1:-1])), default=0)
    height = sizes[-1][0]
    rows = max(-(-height // max(-(-largest // STRIP), 1)), MIN_ROWS if _overlaps(layers) else 1)
    if rows >= height:
        for layer in layers:
            input = layer(input)
        return input
    result = input.new_empty(len(input), *sizes[-1], layers[-1].out_channels).permute(0, 3, 1, 2)
    for first in range(0, height, rows):
        strips = [(first, min(first + rows, height))]
        for layer, (limit, _) in zip(reversed(layers), reversed(sizes[:-1])):
            strips.insert(0, _needed(layer, strips[0], limit))
        part = input[:, :, slice(*strips[0])]
        for layer, (begin, _), (start, stop) in zip(layers, strips, strips[1:]):
            begin //= layer.stride[0]
            part = layer(part)[:, :, start - begin : stop - begin]
        result[:, :, slice(*strips[-1])] = part
    return result


def _overlaps(layers: Sequence[Any]) -> bool:
    """Whether neighbouring strips of the result need the same rows of a map between the layers."""
    return any(layer.kernel_size[0] > layer.stride[0] for layer in layers[1:])


def _size(layer: Any, size: Sequence[int]) -> tuple[int, ...]:
    """Return the height and width of the result for those of the input."""
    sides = zip(size, layer.padding, layer.dilation, layer.kernel_size, layer.stride)
    return tuple((length + 2 * pad - step * (taps - 1) - 1) // stride + 1 for length, pad, step, taps, stride in sides)


def _needed(layer: Any, rows: Rows, limit: int) -> Rows:
    """Return the rows of the input, of ``limit`` ones, for these of the result; the first is a multiple of the stride.

    The layer pads them with zeros, which are beyond the needed rows or beyond the input.
    """
    stride, pad = layer.stride[0], layer.padding[0]
    first = max(rows[0] * stride - pad, 0) // stride * stride
    return first, min((rows[1] - 1) * stride - pad + layer.dilation[0] * (layer.kernel_size[0] - 1) + 1, limit)
