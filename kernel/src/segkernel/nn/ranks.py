"""Collective operations of losses, so that several ranks with parts of a batch compute the loss of the whole batch.

Only in training, where all ranks compute the same losses; a single process, and an evaluation, use local values.

    loss.sum() / mean_over_ranks(valid.sum())
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def shares_batch() -> bool:
    """Whether this process is one of several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, without a gradient."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(count: Tensor) -> Tensor:
    """Return the mean of a count over all ranks while a backward pass may follow, else the local count.

    Gradients are averaged over the ranks: a sum divided by this, not by each rank's own count, weights every pixel of
    the global batch equally.
    """
    if not (shares_batch() and torch.is_grad_enabled()):
        return count
    return sum_over_ranks(count) / dist.get_world_size()


def kth_smallest_over_ranks(values: Tensor, k: Tensor) -> Tensor:
    """Return element ``k``, counted from 0, of the sorted ``values`` (float32, any shape) of all ranks.

    A radix search: the ranks exchange four histograms of 256 bins, for any number of values.
    """
    bits = values.detach().float().flatten().view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + 2**31  # in the order of the values, from 0
    prefix = torch.zeros_like(k)
    for shift in (24, 16, 8, 0):
        digits = (keys[keys >> (shift + 8) == prefix] >> shift) & 255
        counts = sum_over_ranks(torch.bincount(digits, minlength=256))
        before = counts.cumsum(0) - counts
        digit = ((before <= k).sum() - 1).clamp(min=0)
        prefix, k = prefix * 256 + digit, k - before[digit]
    key = (prefix - 2**31).to(torch.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).view(torch.float32)


def kth_of_valid(values: Tensor, valid: Tensor, k: int | Tensor, shared: bool) -> Tensor:
    """Return element ``k``, counted from 0, of the sorted ``values``, or the largest valid one if there are fewer.

    Args:
        values: Of any shape; invalid ones must be the largest.
        valid: Whether each value is valid, bool of the same shape.
        k: Over all ranks when ``shared``.
        shared: Whether to use the values of all ranks.
    """
    count = sum_over_ranks(valid.sum()) if shared else valid.sum()
    last = (count - 1).minimum(torch.as_tensor(k, device=count.device)).clamp(min=0)
    return kth_smallest_over_ranks(values, last) if shared else values.flatten().sort().values[last]
