"""An FCN with a non-local block.

Wang et al., Non-local Neural Networks, 2018.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from segkernel.nn import NonLocal2d
from segkernel.nn.non_local import NonLocalMode
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments


class NLHead(FCNBlockHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        reduction: The block works with that many times fewer channels.
        use_scale: Divide scores by the root of their length.
        mode: How two pixels are compared.
        kernel_size: Of the convolutions.
        concat_input: Join the input to the result and fuse both with one more convolution.
        dilation: Of the convolutions.
    """

    def __init__(
        self,
        reduction: int = 2,
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
