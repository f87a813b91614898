"""A limit on the size of a model, checked while it is built."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from segkernel.errors import UsageError

_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 35
"""Memory of this machine in bytes; 32 GiB is assumed on Windows."""


class SizeLimit(TorchFunctionMode):
    """While active, refuse models with more ``numbers`` in parameters and buffers, before allocating them. By default
    these may take half of the machine's memory in single precision."""

    def __init__(self, numbers: int = min(1 << 32, _MEMORY // 8)) -> None:
        super().__init__()
        self.numbers = self.left = numbers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            self.left -= func(*args, **{**(kwargs or {}), "device": "meta"}).numel()
            if self.left < 0:
                raise UsageError(f"the model is too large: it has more than {self.numbers:,} numbers")
        return func(*args, **(kwargs or {}))
