"""Pooling with ``ceil_mode`` that can be exported with dynamic sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CeilAvgPool2d(nn.Module):
    """Average pooling, (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)), without counting the padding.

    Args:
        stride: Kernel size and stride in pixels.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        # ``ceil_mode`` has branches on the size, which an exporter cannot resolve for all sizes at once.
        return self._pad_and_pool(x) / self._pad_and_pool(x.new_ones(1, 1, x.shape[2], x.shape[3]))

    def _pad_and_pool(self, x: Tensor) -> Tensor:
        margin = self.stride - 1
        return F.avg_pool2d(F.pad(x, (0, margin, 0, margin)), self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class CeilMaxPool2d(nn.Module):
    """Max pooling, (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).

    Args:
        stride: Kernel size and stride in pixels.
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
