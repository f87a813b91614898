"""SETR, naive and with progressive upsampling: convolutions that enlarge the last map of a transformer.

Zheng et al., Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers, 2021
(https://arxiv.org/abs/2012.15840).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments, build_norm, build_upsample


class SETRUPHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h * f, w * f); f is ``up_scale`` to the power of ``num_convs``.

    Args:
        norm_layer: Norm of the map as it comes.
        num_convs: Convolutions, each followed by an enlargement.
        up_scale: How much each enlarges.
        kernel_size: Of the convolutions, 1 or 3.

    Raises:
        ConfigError: The kernel is of another size, or several maps are chosen.
    """

    conformance: ClassVar = {"in_channels": 8, "channels": 8, "num_classes": 4, "num_convs": 2, "up_scale": 2}

    def __init__(
        self,
        norm_layer: Mapping[str, Any] = {"type": "LN", "eps": 1e-6, "requires_grad": True},
        num_convs: int = 1,
        up_scale: int = 4,
        kernel_size: int = 3,
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
        x = self.norm(self.select(features).movedim(1, -1)).movedim(-1, 1)
        for up_conv in self.up_convs:
            x = up_conv(x)
        return x
