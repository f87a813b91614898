"""DNL: a non-local block split into what pairs of pixels say, and what each pixel says alone.

Yin et al., Disentangled Non-Local Neural Networks, 2020.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.nn import NonLocal2d, nchw_to_nlc, nlc_to_nchw
from segkernel.nn.non_local import NonLocalMode
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments


class DisentangledNonLocal2d(NonLocal2d):
    """`NonLocal2d` of whitened queries and keys, plus one weighted mean that all pixels share.

    Args:
        temperature: ``embedded_gaussian`` divides scores by it.
    """

    def __init__(self, *args: Any, temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = temperature if self.mode == "embedded_gaussian" else 1.0
        self.conv_mask = nn.Conv2d(args[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = nchw_to_nlc(self.theta(x)), nchw_to_nlc(self.phi(x)), nchw_to_nlc(self.g(x))
        query, key = query - query.mean(1, keepdim=True), key - key.mean(1, keepdim=True)
        pairwise = self.attend(query / self.temperature, key, value)
        unary = self.conv_mask(x).flatten(2).softmax(2) @ value
        return x + self.conv_out(nlc_to_nchw(pairwise + unary, (x.shape[2], x.shape[3])))


class DNLHead(FCNBlockHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        reduction: The block works with that many times fewer channels.
        use_scale: Divide scores by the root of their length.
        mode: How two pixels are compared.
        temperature: ``embedded_gaussian`` divides scores by it.
        kernel_size: Of the convolutions.
        concat_input: Join the input to the result and fuse both with one more convolution.
        dilation: Of the convolutions.
    """

    def __init__(
        self,
        reduction: int = 2,
        use_scale: bool = True,
        mode: NonLocalMode = "embedded_gaussian",
        temperature: float = 0.05,
        **kwargs: Unpack[FCNBlockHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.dnl_block = DisentangledNonLocal2d(
            self.channels,
            reduction,
            use_scale,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            mode=mode,
            temperature=temperature,
        )

    def block(self, x: Tensor) -> Tensor:
        return self.dnl_block(x)
