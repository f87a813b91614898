"""CGRSeg: context of all levels by rectangular attention, features rebuilt under its guidance, dynamic prototypes.

Context-Guided Spatial Feature Reconstruction for Efficient Semantic Segmentation, Ni et al., 2024
(https://arxiv.org/abs/2405.06228). State-dict keys are the authors'.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import (
    ConvModule,
    DecodeHead,
    LayerConfig,
    MultiLevelHeadArguments,
    adaptive_avg_pool,
    kaiming_init,
    resize,
)


class CGRSegHead(DecodeHead):
    """Feature maps, finest first -> logits (N, out_channels, h, w) at the size of the first.

    Args:
        depth: Blocks on the context of all levels.
        mlp_ratio: Ratio of the hidden channels of a block.
        band_kernel_size: Length in pixels of the strip convolutions: 11 in the tiny and base model, 9 in the large one.
        square_kernel_size: Side of the depthwise convolutions.
    """

    fixed_arguments = frozenset({"input_transform"})

    conformance: ClassVar = {
        "in_channels": [8, 12, 16], "in_index": [0, 1, 2], "channels": 8, "num_classes": 4, "depth": 1,
        "norm_cfg": {"type": "BN"},
    }  # fmt: skip

    def __init__(
        self,
        depth: PositiveInt = 5,
        mlp_ratio: PositiveInt = 2,
        band_kernel_size: PositiveInt = 11,
        square_kernel_size: PositiveInt = 3,
        **kwargs: Unpack[MultiLevelHeadArguments],
    ) -> None:
        super().__init__(input_transform="multiple_select", **kwargs)
        width = self.channels

        def block(channels: int) -> RCM:
            return RCM(channels, mlp_ratio, band_kernel_size, square_kernel_size)

        context = sum(self.in_channels)
        self.trans = nn.ModuleDict({"transformer_blocks": nn.Sequential(*(block(context) for _ in range(depth)))})
        self.meta = nn.ModuleList(block(channels) for channels in self.in_channels)
        self.SIM = nn.ModuleList(GuidedFusion(channels, width, self.norm_cfg) for channels in self.in_channels)
        self.conv = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in self.in_channels[:-1])
        self.linear_fuse = ConvModule(width, width, 1, groups=width, **self.layer_cfgs)
        self.lgc = DynamicPrototypeGuidance(width)

    def forward_feature(self, features: Features) -> Tensor:
        levels = self.select(features)
        height, width = ((side + 1) // 2 for side in levels[-1].shape[2:])
        context = torch.cat([adaptive_avg_pool(level, (height, width)) for level in levels], 1)
        context = self.trans["transformer_blocks"](context)
        x: Tensor | None = None
        for i, guide in reversed([*enumerate(context.split(list(self.in_channels), 1))]):
            level = levels[i]
            if x is not None:
                level = level + self.conv[i](resize(x, level.shape[2:]))
            x = self.SIM[i](self.meta[i](level), guide)
        assert x is not None
        prototypes = self._prototypes(x, self.cls_seg(self.linear_fuse(x)))
        return x + self.lgc(x, prototypes)

    def _prototypes(self, x: Tensor, logits: Tensor) -> Tensor:
        """Return the mean feature of each class, (N, channels, classes, 1), weighted by a softmax over all pixels."""
        weights = logits.flatten(2).softmax(2)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


class RCM(nn.Module):
    """Rectangular self-calibration module: attention, norm and feed-forward part: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, mlp_ratio: int, band_kernel_size: int, square_kernel_size: int) -> None:
        super().__init__()
        hidden = mlp_ratio * channels
        self.token_mixer = RCA(channels, band_kernel_size, square_kernel_size)
        self.norm = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Conv2d(channels, hidden, 1))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Conv2d(hidden, channels, 1))
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma[:, None, None] * self.mlp(self.norm(self.token_mixer(x)))


class RCA(nn.Module):
    """Rectangular self-calibration attention, section 3.2 of the paper: (N, channels, H, W) -> the same shape.

    The means of rows and columns span a rectangle, whose shape two strip convolutions calibrate.

    Args:
        channels: Channels of the map.
        band_kernel_size: Length of the strip convolutions in pixels.
        square_kernel_size: Side of the depthwise convolution of the features.
    """

    def __init__(self, channels: int, band_kernel_size: int, square_kernel_size: int) -> None:
        super().__init__()
        band, square = band_kernel_size, square_kernel_size
        self.dwconv_hw = nn.Conv2d(channels, channels, square, padding=square // 2, groups=channels)
        self.excite = nn.Sequential(
            nn.Conv2d(channels, channels, (1, band), padding=(0, band // 2), groups=channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, (band, 1), padding=(band // 2, 0), groups=channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        attention = self.excite(x.mean(3, keepdim=True) + x.mean(2, keepdim=True))
        return attention * self.dwconv_hw(x)


class GuidedFusion(nn.Module):
    """Local features times a gate of the context: (N, C, H, W), (N, C, h, w) -> (N, channels, H, W)."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig | None) -> None:
        super().__init__()
        self.fuse1 = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.fuse2 = ConvModule(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)

    def forward(self, local: Tensor, context: Tensor) -> Tensor:
        return self.fuse1(local) * resize(F.hardsigmoid(self.fuse2(context)), local.shape[2:])


class DynamicPrototypeGuidance(nn.Module):
    """Channels of a map weighted by attention over class prototypes: (N, C, H, W), (N, C, K, 1) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_mul_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.LayerNorm((channels, 1, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )
        kaiming_init(self.conv_mask)
        for parameter in self.channel_mul_conv[-1].parameters():  # the map is halved to begin with
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:
        weights = self.conv_mask(prototypes).softmax(2)
        pooled = (prototypes * weights).sum(2, keepdim=True)  # (N, C, 1, 1)
        return x * self.channel_mul_conv(pooled).sigmoid()
