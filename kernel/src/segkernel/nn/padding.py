"""``SAME`` padding as TensorFlow defines it: the output has ceil(size / stride) pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def same_padding(size: int, kernel_size: int, stride: int, dilation: int) -> int:
    """Return the total padding of both sides for which a convolution has ceil(``size`` / ``stride``) outputs."""
    steps = (size + stride - 1) // stride
    extent = (kernel_size - 1) * dilation + 1
    padding = (steps - 1) * stride + extent - size
    # It can only be negative if the stride is larger than the kernel; else, without the maximum, exporters can
    # simplify symbolic sizes.
    return padding if extent >= stride else torch.sym_max(padding, 0)


def pad_both_sides(x: Tensor, height: int, width: int) -> Tensor:
    """Pad ``x`` with ``height`` rows and ``width`` columns of zeros in total; an odd one is at the bottom or right."""
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


class AdaptivePadding(nn.Module):
    """Pad (N, C, H, W) with zeros so that a kernel covers every pixel.

    Args:
        kernel_size: Kernel size of the following layer in pixels.
        stride: Stride of that layer in pixels.
        dilation: Distance between kernel points of that layer in pixels.
        padding: ``corner`` pads at the bottom and right only, ``same`` on all sides.
    """

    def __init__(
        self, kernel_size: int = 1, stride: int = 1, dilation: int = 1, padding: Literal["same", "corner"] = "corner"
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.dilation, self.padding = kernel_size, stride, dilation, padding

    def forward(self, x: Tensor) -> Tensor:
        height, width = (same_padding(size, self.kernel_size, self.stride, self.dilation) for size in x.shape[2:])
        return F.pad(x, (0, width, 0, height)) if self.padding == "corner" else pad_both_sides(x, height, width)
