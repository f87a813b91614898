"""What losses ask the other processes of a run, so that several with a part of the batch learn what one learns.

Only in training, where all ranks compute as many losses; a single process, and an evaluation, know their own alone.

    loss.sum() / mean_over_ranks(valid.sum())
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def shares_batch() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, without a gradient."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(count: Tensor) -> Tensor:
    """Return the mean of a count over all ranks while a backward pass may follow, else the count as it is.

    Gradients are averaged over the ranks: a sum divided by this, not by each rank's own count, weights every pixel of
    the global batch equally.
    """
    if not (shares_batch() and torch.is_grad_enabled()):
        return count
    return sum_over_ranks(count) / dist.get_world_size()


def kth_smallest_over_ranks(values: Tensor, k: Tensor) -> Tensor:
    """Return the value that ``k`` others of all ranks' ``values`` (float32, of any shape) stand before when sorted.

    A search by digits: four histograms of 256 bins travel, whatever the number of values.
    """
    bits = values.detach().float().flatten().view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + 2**31  # ordered as the values are, from 0 on
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
    """Return the value that ``k`` smaller ones stand before, or the largest valid one where there are too few.

    Args:
        values: Of any shape; those that are not valid are the largest.
        valid: Which of them count, bool of that shape.
        k: Of all ranks together when ``shared``.
        shared: Whether the values of all ranks count.
    """
    count = sum_over_ranks(valid.sum()) if shared else valid.sum()
    last = (count - 1).minimum(torch.as_tensor(k, device=count.device)).clamp(min=0)
    return kth_smallest_over_ranks(values, last) if shared else values.flatten().sort().values[last]
