"""Pooling that rounds sizes up, in a form that exports with dynamic sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CeilAvgPool2d(nn.Module):
    """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); a cell at the border averages what it covers.

    Args:
        stride: Side and distance of the cells in pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        # ``ceil_mode`` asks questions about the size that an exporter cannot answer for every size at once.
        return self._padded(x) / self._padded(x.new_ones(1, 1, x.shape[2], x.shape[3]))

    def _padded(self, x: Tensor) -> Tensor:
        margin = self.stride - 1
        return F.avg_pool2d(F.pad(x, (0, margin, 0, margin)), self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class CeilMaxPool2d(nn.Module):
    """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); a cell at the border takes from what it covers.

    Args:
        stride: Side and distance of the cells in pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return F.max_pool2d(x, self.stride, ceil_mode=True)
        margin = self.stride - 1
        return F.max_pool2d(F.pad(x, (0, margin, 0, margin), value=-torch.inf), self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
