"""Activation checkpointing: store a block's input only and rerun the block in the backward pass.

Training Deep Nets with Sublinear Memory Cost, Chen et al., 2016 (https://arxiv.org/abs/1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def needs_grad(block: nn.Module, *inputs: Any) -> bool:
    """Whether a backward pass goes through ``block``, for its parameters or its inputs."""
    tensors = (each for value in inputs for each in (value if isinstance(value, list | tuple) else [value]))
    leaves = chain(block.parameters(), (each for each in tensors if isinstance(each, Tensor)))
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves)


def checkpoint_block(
    block: nn.Module, *inputs: Any, forward: Callable[..., Any] | None = None, enabled: bool = True
) -> Any:
    """Return ``forward(*inputs)`` without storing its activations; the backward pass recomputes them.

    Args:
        block: The module whose batch norms ``forward`` runs. They see the batch twice, but update their running
            statistics once, so that training is the same with and without checkpointing.
        *inputs: Arguments of ``forward``.
        forward: A method of ``block``; the block itself by default.
        enabled: The block's ``with_cp``; False calls ``forward`` directly.
    """
    function = block if forward is None else forward
    if not (enabled and needs_grad(block, *inputs)):
        return function(*inputs)
    if torch.compiler.is_compiling():  # updates statistics once by itself, and ignores context_fn
        return checkpoint(function, *inputs, use_reentrant=False)
    return checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen_statistics(block))
    )


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    # Momentum 0 instead of track_running_stats=False: the latter changes what autograd saves, and checkpoint compares
    # the tensors saved by the two passes.
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count
