"""Bounds of sizes, which are tensors while TorchScript traces a model; `torch.sym_max` refuses those."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def at_least(size: Any, smallest: int) -> Any:
    """Return the larger one of an integer, a symbolic integer or a tensor, and an integer."""
    return size.clamp(min=smallest) if isinstance(size, Tensor) else torch.sym_max(size, smallest)


def at_most(size: Any, largest: int) -> Any:
    """Return the smaller one of an integer, a symbolic integer or a tensor, and an integer."""
    return size.clamp(max=largest) if isinstance(size, Tensor) else torch.sym_min(size, largest)
