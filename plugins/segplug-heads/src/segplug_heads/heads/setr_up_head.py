"""SETR, naive and with progressive upsampling: alternating convolution and upsampling of a transformer's last map.

Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, Zheng et al., 2021
(https://arxiv.org/abs/2012.15840).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import OddInt, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, LayerConfig, build_norm, build_upsample


class SETRUPHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, f h, f w), f being ``up_scale`` ** ``num_convs``.

    Args:
        norm_layer: Norm of the input.
        num_convs: Number of convolutions, each followed by an upsampling.
        up_scale: Factor of each upsampling.
        kernel_size: Kernel size of the convolutions, 1 or 3 pixels.

    Raises:
        ConfigError: ``kernel_size`` is something else, or several maps are selected.
    """

    conformance: ClassVar = {"in_channels": 8, "channels": 8, "num_classes": 4, "num_convs": 2, "up_scale": 2}

    def __init__(
        self,
        norm_layer: LayerConfig = {"type": "LN", "eps": 1e-6, "requires_grad": True},  # noqa: B006  never changed
        num_convs: PositiveInt = 1,
        up_scale: PositiveInt = 4,
        kernel_size: OddInt = 3,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if kernel_size not in (1, 3):
            raise ConfigError(Problem(f"{kernel_size} is neither 1 nor 3", "kernel_size"))
        if self.input_transform == "multiple_select":
            raise ConfigError(Problem("the head works on one map", "input_transform"))
        self.norm = build_norm(norm_layer, self.in_channels)[1]
        self.up_convs = nn.ModuleList(
            nn.Sequential(
                ConvModule(
                    self.channels if i else self.in_channels,
                    self.channels,
                    kernel_size,
                    padding=kernel_size // 2,
                    norm_cfg=self.norm_cfg,
                    act_cfg=self.act_cfg,
                ),
                build_upsample({"type": "bilinear"}, scale_factor=up_scale, align_corners=self.align_corners),
            )
            for i in range(num_convs)
        )

    def forward_feature(self, features: Features) -> Tensor:
        # The layer norm that ends the transformer; the backbone of these configs has none.
        x = self.norm(self.select(features).movedim(1, -1)).movedim(-1, 1)
        for up_conv in self.up_convs:
            x = up_conv(x)
        return x
