"""Padding that keeps, or divides, a size exactly: what TensorFlow calls ``SAME``."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def missing(size: int, kernel_size: int, stride: int, dilation: int) -> int:
    """Return how many pixels a convolution lacks to give ceil(``size`` / ``stride``) outputs."""
    steps = (size + stride - 1) // stride
    extent = (kernel_size - 1) * dilation + 1
    lacking = (steps - 1) * stride + extent - size
    return lacking if extent >= stride else torch.sym_max(lacking, 0)  # exporters see through it without a maximum


def pad_around(x: Tensor, below: int, right: int) -> Tensor:
    """Return ``x`` with that many zeros more in height and width, on both sides; an odd one goes below, and right."""
    return F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))


class AdaptivePadding(nn.Module):
    """Pad (N, C, H, W) with zeros so that a kernel covers every pixel.

    ``corner`` pads right and below, ``same`` all around.
    """

    def __init__(
        self, kernel_size: int = 1, stride: int = 1, dilation: int = 1, padding: Literal["same", "corner"] = "corner"
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation, self.padding = kernel_size, stride, dilation, padding

    def forward(self, x: Tensor) -> Tensor:
        below, right = (missing(size, self.kernel_size, self.stride, self.dilation) for size in x.shape[2:])
        return F.pad(x, (0, right, 0, below)) if self.padding == "corner" else pad_around(x, below, right)


class AdaptivePaddingConv2d(nn.Conv2d):
    """``Conv2dAdaptivePadding``: (N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride)).

    The arguments are those of ``nn.Conv2d``; ``padding`` has no effect.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **{**kwargs, "padding": 0})

    def forward(self, x: Tensor) -> Tensor:
        sides = zip(x.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        return super().forward(pad_around(x, *(missing(*side) for side in sides)))
