"""The head of EfficientViT's segmentation models: levels added at the size of the finest, then inverted bottlenecks.

EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction, Cai et al., 2022
(https://arxiv.org/abs/2205.14756).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, LayerConfigs, MultiLevelHeadArguments, normal_init, resize


class EfficientViTSegHead(DecodeHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        depth: Blocks after the sum of the levels.
        expand_ratio: Ratio of the hidden channels of a block.
        fused: Blocks whose first two convolutions are one, as in the models ``l1`` and ``l2``.
        final_expand: Factor of the channels before the last convolution; None for no convolution there.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "in_channels": [8, 16, 24], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4, "depth": 1,
        "final_expand": 2, "norm_cfg": {"type": "BN"},
    }  # fmt: skip

    def __init__(
        self,
        depth: PositiveInt = 3,
        expand_ratio: PositiveInt = 4,
        fused: bool = False,
        final_expand: PositiveInt | None = None,
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        width = self.channels
        linear: LayerConfigs = {**self.layer_cfgs, "act_cfg": None}
        self.inputs = nn.ModuleList(ConvModule(channels, width, 1, **linear) for channels in self.in_channels)
        block = FusedMBConv if fused else MBConv
        self.middle = nn.Sequential(*(block(width, expand_ratio, self.layer_cfgs) for _ in range(depth)))
        self.output_conv = None
        if final_expand is not None:
            self.output_conv = ConvModule(width, width * final_expand, 1, **self.layer_cfgs)
            self.conv_seg = nn.Conv2d(width * final_expand, self.out_channels, 1)
            normal_init(self.conv_seg, std=0.01)

    def forward_feature(self, features: Features) -> Tensor:
        x, *coarser = [conv(level) for conv, level in zip(self.inputs, self.select(features), strict=True)]
        for level in reversed(coarser):
            x = x + resize(level, x.shape[2:], mode="bicubic", align_corners=self.align_corners)
        x = self.middle(x)
        return x if self.output_conv is None else self.output_conv(x)


class MBConv(nn.Module):
    """Pointwise, depthwise and pointwise convolution with a residual connection: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, expand_ratio: int, layers: LayerConfigs) -> None:
        super().__init__()
        hidden = channels * expand_ratio
        linear: LayerConfigs = {**layers, "act_cfg": None}
        self.inverted_conv = ConvModule(channels, hidden, 1, **layers)
        self.depth_conv = ConvModule(hidden, hidden, 3, padding=1, groups=hidden, **layers)
        self.point_conv = ConvModule(hidden, channels, 1, **linear)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point_conv(self.depth_conv(self.inverted_conv(x)))


class FusedMBConv(nn.Module):
    """3x3 and pointwise convolution with a residual connection: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, expand_ratio: int, layers: LayerConfigs) -> None:
        super().__init__()
        hidden = channels * expand_ratio
        linear: LayerConfigs = {**layers, "act_cfg": None}
        self.spatial_conv = ConvModule(channels, hidden, 3, padding=1, **layers)
        self.point_conv = ConvModule(hidden, channels, 1, **linear)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point_conv(self.spatial_conv(x))
