"""Batch normalisation over the batches of all ranks, on any device.

torch's own `torch.nn.SyncBatchNorm` runs on CUDA only, where it is faster and is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segkernel.nn import SyncBatchNorm2d


class _SumOverRanks(torch.autograd.Function):
    """Sum of a tensor over all ranks. Every rank's loss depends on every input, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(SyncBatchNorm2d):
    """Normalises (N, C, ...) by the mean and variance over all ranks' batches, which may differ in size."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [0, *range(2, x.ndim)]
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = _SumOverRanks.apply(values.new_tensor([values.numel() / values.shape[1]]))
        mean = _SumOverRanks.apply(values.sum(axes)) / count
        centred = values - _as_channels(mean, x)
        # Two passes: a variance from sums of squares loses precision where the mean is large.
        variance = _SumOverRanks.apply(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        result = centred * _as_channels((variance + self.eps).rsqrt(), x)
        if self.affine:
            result = result * _as_channels(self.weight, x) + _as_channels(self.bias, x)
        return result.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def _as_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def synchronise_batch_norm(module: nn.Module, on_cuda: bool) -> None:
    """Replace every ``SyncBN`` by a layer that synchronises; parameters, buffers and their names stay."""
    for name, child in module.named_children():
        if type(child) is SyncBatchNorm2d:
            kind: type[nn.modules.batchnorm._BatchNorm] = nn.SyncBatchNorm if on_cuda else SyncBatchNorm
            made = kind(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            made._parameters, made._buffers = child._parameters, child._buffers
            made.train(child.training)
            setattr(module, name, made)
        else:
            synchronise_batch_norm(child, on_cuda)
