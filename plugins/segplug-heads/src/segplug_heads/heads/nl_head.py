"""An FCN with a non-local block, attention from every pixel to every other one.

Non-local Neural Networks, Wang et al., 2018 (https://arxiv.org/abs/1711.07971).
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.nn import NonLocal2d
from segkernel.nn.non_local import NonLocalMode
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments


class NLHead(FCNBlockHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        reduction: The embeddings of the block have ``channels / reduction`` channels; 2 is the paper's bottleneck.
        use_scale: Divide the products of ``embedded_gaussian`` by the square root of their length.
        mode: The pairwise function of the block.
        kernel_size: Kernel size of the convolutions, in pixels.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        dilation: Dilation of the convolutions.
    """

    def __init__(
        self,
        reduction: PositiveInt = 2,
        use_scale: bool = True,
        mode: NonLocalMode = "embedded_gaussian",
        **kwargs: Unpack[FCNBlockHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.nl_block = NonLocal2d(
            self.channels, reduction, use_scale, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, mode=mode
        )

    def block(self, x: Tensor) -> Tensor:
        return self.nl_block(x)
