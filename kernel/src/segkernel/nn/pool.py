"""Adaptive pooling that can be exported with dynamic sizes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OutputSize = int | tuple[int | None, int | None]


def adaptive_avg_pool(x: Tensor, output_size: OutputSize) -> Tensor:
    """Return ``F.adaptive_avg_pool2d(x, output_size)`` of ``x`` (N, C, H, W).

    Exporters convert torch's own to pooling with the fixed bins of the example, which is silently wrong at other sizes.
    While tracing, the bins are computed from the size, and pooling is two matrix products.
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
    """Return ``F.adaptive_max_pool2d(x, output_size)`` of ``x`` (N, C, H, W), exportable as `adaptive_avg_pool` is."""
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
    """Whether the model is being compiled or exported: sizes may then be symbols."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def _bins(x: Tensor, size: int, count: int) -> Tensor:
    """Return the averaging matrix (count, size); bin i is floor(i size / count) to ceil((i + 1) size / count)."""
    index = torch.arange(count, device=x.device)
    start = (index * size) // count
    end = ((index + 1) * size + count - 1) // count
    position = torch.arange(size, device=x.device)
    inside = torch.logical_and(position >= start[:, None], position < end[:, None])
    return inside.to(x.dtype) / (end - start)[:, None].to(x.dtype)
