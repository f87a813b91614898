"""Gradient checkpointing that leaves batch-norm statistics as they would be without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call ``function(*inputs)``, a part of ``module``, keeping no activations: backward computes them again.

    The second pass runs batch norm on the same batch, but does not count it into the running statistics twice.
    """
    return checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _still_statistics(module))
    )


@contextmanager
def _still_statistics(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # not track_running_stats: that changes what autograd saves, and checkpoint compares it
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count


def worth_recomputing(x: Tensor) -> bool:
    """Whether a backward pass will come through ``x``."""
    return torch.is_grad_enabled() and x.requires_grad


def run(module: nn.Module, x: Tensor, with_cp: bool) -> Tensor:
    """Return ``module(x)``, with `recompute` where that is asked for and worth it."""
    return recompute(module, module, x) if with_cp and worth_recomputing(x) else module(x)
