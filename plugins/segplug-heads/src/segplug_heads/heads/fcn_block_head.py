"""Base of heads that put one block, mostly an attention, between the two convolutions of an `FCNHead`."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segkernel.annotations import OddInt, PositiveInt
from segkernel.nn import DecodeHeadArguments
from segplug_heads.heads.fcn_head import FCNHead


class FCNBlockHeadArguments(DecodeHeadArguments, total=False):
    """The arguments of `FCNHead` but ``num_convs``, which is fixed."""

    kernel_size: OddInt
    concat_input: bool
    dilation: PositiveInt


class FCNBlockHead(FCNHead):
    """An `FCNHead` of two convolutions with ``block`` between them."""

    fixed_arguments = frozenset({"num_convs"})

    def __init__(self, **kwargs: Unpack[FCNBlockHeadArguments]) -> None:
        super().__init__(num_convs=2, **kwargs)

    def block(self, x: Tensor) -> Tensor:
        """Add context to a map: (N, channels, h, w) -> the same shape."""
        raise NotImplementedError

    def convolve(self, x: Tensor) -> Tensor:
        first, second = self.convs.children()
        out = second(self.block(first(x)))
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], 1))
