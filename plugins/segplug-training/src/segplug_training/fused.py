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
"""Where torch has one. All others choose between a loop and ``foreach`` by themselves."""
KEYS = ("fused", "foreach", "capturable")
"""What a group says of the way it is computed, which is this machine's affair and no checkpoint's."""


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let an optimiser use its fused kernel where there is one, and where nobody has chosen between it and others."""
    if device.type not in FUSED.get(type(optimizer), ()):
        return
    of_parts = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)  # whose kernels take parameters in parts, too
    for group in optimizer.param_groups:
        free = group.get("fused") is None and group.get("foreach") is None and not group.get("differentiable")
        if free and all(_fits(each, device) and (of_parts or not _is_part(each)) for each in group["params"]):
            group["fused"] = True


def _fits(parameter: torch.Tensor, device: torch.device) -> bool:
    return parameter.is_floating_point() and parameter.device.type == device.type


def _is_part(parameter: torch.Tensor) -> bool:
    """Whether other ranks have the rest of a parameter."""
    return hasattr(parameter, "full_tensor")


def computed_as(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimiser's saved state with the way of computing that ``optimizer`` has."""
    kept = [{key: group[key] for key in KEYS if key in group} for group in optimizer.param_groups]
    groups = [dict(group) | own for group, own in zip(state["param_groups"], kept)]
    same_number = len(groups) == len(state["param_groups"])  # else torch says so
    return {**state, "param_groups": groups if same_number else state["param_groups"]}
