"""GCNet: an FCN with one context for all pixels.

Cao et al., GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from segkernel.nn import ContextBlock
from segkernel.nn.context_block import Fusion
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments


class GCHead(FCNBlockHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        ratio: Share of the channels inside the transforms of the context.
        pooling_type: The context is a learnt weighting of the pixels (``att``), or their mean (``avg``).
        fusion_types: How the context acts on each pixel: ``channel_add``, ``channel_mul`` or both.
        kernel_size: Of the convolutions.
        concat_input: Join the input to the result and fuse both with one more convolution.
        dilation: Of the convolutions.
    """

    def __init__(
        self,
        ratio: float = 0.25,
        pooling_type: Literal["att", "avg"] = "att",
        fusion_types: Sequence[Fusion] = ("channel_add",),
        **kwargs: Unpack[FCNBlockHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.gc_block = ContextBlock(self.channels, ratio, pooling_type, fusion_types)

    def block(self, x: Tensor) -> Tensor:
        return self.gc_block(x)
