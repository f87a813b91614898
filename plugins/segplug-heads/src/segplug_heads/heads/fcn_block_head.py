"""What the heads share that put one block between the two convolutions of an FCN."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.nn import DecodeHeadArguments
from segplug_heads.heads.fcn_head import FCNHead


class FCNBlockHeadArguments(DecodeHeadArguments, total=False):
    """The arguments of `FCNBlockHead`."""

    kernel_size: int
    concat_input: bool
    dilation: int


class FCNBlockHead(FCNHead):
    """An `FCNHead` of two convolutions with ``block`` between them; arguments are those of `FCNHead`."""

    fixed_arguments = frozenset({"num_convs"})

    def __init__(self, **kwargs: Unpack[FCNBlockHeadArguments]) -> None:
        super().__init__(num_convs=2, **kwargs)

    def block(self, x: Tensor) -> Tensor:
        """Return (N, channels, h, w) with context, the same shape."""
        raise NotImplementedError

    def fuse(self, x: Tensor) -> Tensor:
        first, second = self.convs
        out = second(self.block(first(x)))
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], 1))
