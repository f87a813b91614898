"""What torch.export and ONNX need in place of Python's control flow and stable sorting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

__all__ = ["descending", "is_exporting", "while_loop"]


def is_exporting() -> bool:
    """Return whether torch.export traces the code, which then must not depend on values."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def descending(values: Tensor) -> Tensor:
    """Return the order (n,) of values from the largest on; of equal values the first comes first."""
    if is_exporting():  # ONNX has no stable sort, but its top k is one
        return values.topk(values.shape[0]).indices
    return values.argsort(descending=True, stable=True)
