"""Pooling to a given number of bins, exportable with sizes that are only known when the model runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OutputSize = int | tuple[int | None, int | None]


def adaptive_avg_pool(x: Tensor, output_size: OutputSize) -> Tensor:
    """Return ``x`` (N, C, H, W) averaged into ``output_size`` (height, width) bins, as torch's adaptive pooling does.

    Exporters write torch's own for the example's size only, silently wrong at others; there the bins are
    computed from the size instead, as two matrix products.
    """
    height, width = output_size if isinstance(output_size, tuple) else (output_size, output_size)
    if height == width == 1:
        return x.mean((2, 3), keepdim=True)
    if not is_tracing():
        return F.adaptive_avg_pool2d(x, (height, width))
    if width is not None:
        x = x @ _bins(x, x.shape[3], width).T
    if height is not None:
        x = _bins(x, x.shape[2], height) @ x
    return x


def adaptive_max_pool(x: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Return the greatest of ``x`` (N, C, H, W) in each of ``output_size`` (height, width) bins, exportable as well."""
    height, width = output_size
    if not is_tracing():
        return F.adaptive_max_pool2d(x, (height, width))
    inside = _bins(x, x.shape[3], width) > 0
    x = x.unsqueeze(3).masked_fill(~inside, -torch.inf).amax(4)
    inside = _bins(x, x.shape[2], height) > 0
    return x.unsqueeze(2).masked_fill(~inside.unsqueeze(2), -torch.inf).amax(3)


class AdaptiveAvgPool2d(nn.Module):
    """`adaptive_avg_pool` as a layer."""

    def __init__(self, output_size: OutputSize) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_avg_pool(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def is_tracing() -> bool:
    """Tell whether the model is being compiled or exported, when sizes may be symbols."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def _bins(x: Tensor, size: int, count: int) -> Tensor:
    """Return the (count, size) matrix of means: bin i covers floor(i size / count) to ceil((i + 1) size / count)."""
    index = torch.arange(count, device=x.device)
    start = (index * size) // count
    end = ((index + 1) * size + count - 1) // count
    position = torch.arange(size, device=x.device)
    inside = (position >= start[:, None]) & (position < end[:, None])
    return inside.to(x.dtype) / (end - start)[:, None].to(x.dtype)
