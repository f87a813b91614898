"""GCNet: an FCN with one context vector for all pixels of an image.

GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, Cao et al., 2019
(https://arxiv.org/abs/1904.11492).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from segkernel.annotations import Positive
from segkernel.nn import ContextBlock
from segkernel.nn.context_block import Fusion
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments


class GCHead(FCNBlockHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        ratio: Hidden channels of the block's transforms, as a fraction of ``channels``; the paper studies 1/4 to 1/32.
        pooling_type: The context is the mean of the pixels with learnt attention weights (``att``), or without
            (``avg``).
        fusion_types: How the context is fused with each pixel: ``channel_add``, ``channel_mul`` or both.
        kernel_size: Kernel size of the convolutions, in pixels.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        dilation: Dilation of the convolutions.
    """

    def __init__(
        self,
        ratio: Positive = 0.25,
        pooling_type: Literal["att", "avg"] = "att",
        fusion_types: Sequence[Fusion] = ("channel_add",),
        **kwargs: Unpack[FCNBlockHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.gc_block = ContextBlock(self.channels, ratio, pooling_type, fusion_types)

    def block(self, x: Tensor) -> Tensor:
        return self.gc_block(x)
