"""torch's fused optimisers: one kernel for all parameters of a group, on GPUs and on processors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

FUSED: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("cuda", "cpu"),
    torch.optim.Adam: ("cuda", "cpu"),
    torch.optim.AdamW: ("cuda", "cpu"),
    torch.optim.Adagrad: ("cpu",),
}
"""Devices for which torch has a fused kernel. Other optimisers choose between a loop and ``foreach`` themselves."""
KEYS = ("fused", "foreach", "capturable")
"""Keys of a parameter group that select a kernel; machine-specific, so not restored from a checkpoint."""


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Enable an optimiser's fused kernel where it exists and the user has not chosen an implementation."""
    if device.type not in FUSED.get(type(optimizer), ()):
        return
    sharded = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)  # kernels that take sharded parameters
    for group in optimizer.param_groups:
        free = group.get("fused") is None and group.get("foreach") is None and not group.get("differentiable")
        if free and all(_fits(each, device) and (sharded or not _is_sharded(each)) for each in group["params"]):
            group["fused"] = True


def _fits(parameter: torch.Tensor, device: torch.device) -> bool:
    return parameter.is_floating_point() and parameter.device.type == device.type


def _is_sharded(parameter: torch.Tensor) -> bool:
    """Whether a parameter is a DTensor, of which each rank holds a shard."""
    return hasattr(parameter, "full_tensor")


def keep_kernel_flags(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimiser's saved state with the kernel flags of ``optimizer``."""
    kept = [{key: group[key] for key in KEYS if key in group} for group in optimizer.param_groups]
    groups = [dict(group) | own for group, own in zip(state["param_groups"], kept)]
    same_number = len(groups) == len(state["param_groups"])  # otherwise torch raises
    return {**state, "param_groups": groups if same_number else state["param_groups"]}
