"""DNL: a non-local block split into a whitened pairwise term and a unary term.

Disentangled Non-Local Neural Networks, Yin et al., 2020 (https://arxiv.org/abs/2006.06668).
"""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import Positive, PositiveInt
from segkernel.nn import LayerConfig, NonLocal2d, nchw_to_nlc, nlc_to_nchw
from segkernel.nn.non_local import NonLocalMode
from segplug_heads.heads.fcn_block_head import FCNBlockHead, FCNBlockHeadArguments


class DisentangledNonLocal2d(NonLocal2d):
    """`NonLocal2d` with whitened queries and keys, plus a unary term: a weighted mean that all pixels share.

    Args:
        in_channels: Channels of the feature map.
        reduction: The embeddings have ``in_channels / reduction`` channels.
        use_scale: Divide the products of ``embedded_gaussian`` by the square root of their length.
        mode: The pairwise function.
        temperature: The logits of ``embedded_gaussian`` are divided by it.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Norm of the output convolution; None for no norm.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int,
        use_scale: bool,
        mode: NonLocalMode,
        temperature: float,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
    ) -> None:
        super().__init__(in_channels, reduction, use_scale, conv_cfg=conv_cfg, norm_cfg=norm_cfg, mode=mode)
        # On top of the square root of `use_scale`; as in MMSegmentation, the other modes have no temperature.
        self.temperature = temperature if mode == "embedded_gaussian" else 1.0
        self.conv_mask = nn.Conv2d(in_channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = nchw_to_nlc(self.theta(x)), nchw_to_nlc(self.phi(x)), nchw_to_nlc(self.g(x))
        # Whitening removes from the pairwise term what is the same for all queries; the unary term models that alone.
        query, key = query - query.mean(1, keepdim=True), key - key.mean(1, keepdim=True)
        pairwise = self.attend(query / self.temperature, key, value)
        unary = self.conv_mask(x).flatten(2).softmax(2) @ value
        return x + self.conv_out(nlc_to_nchw(pairwise + unary, (x.shape[2], x.shape[3])))


class DNLHead(FCNBlockHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        reduction: The embeddings of the block have ``channels / reduction`` channels.
        use_scale: Divide the products of ``embedded_gaussian`` by the square root of their length.
        mode: The pairwise function of the block.
        temperature: The logits of ``embedded_gaussian`` are divided by it.
        kernel_size: Kernel size of the convolutions, in pixels.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        dilation: Dilation of the convolutions.
    """

    def __init__(
        self,
        reduction: PositiveInt = 2,
        use_scale: bool = True,
        mode: NonLocalMode = "embedded_gaussian",
        temperature: Positive = 0.05,
        **kwargs: Unpack[FCNBlockHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.dnl_block = DisentangledNonLocal2d(
            self.channels,
            reduction,
            use_scale,
            mode=mode,
            temperature=temperature,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
        )

    def block(self, x: Tensor) -> Tensor:
        return self.dnl_block(x)
