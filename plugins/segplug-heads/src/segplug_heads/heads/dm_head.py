"""DMNet: depthwise convolutions whose kernels are computed from the image.

Dynamic Multi-Scale Filters for Semantic Segmentation, He, Deng and Qiao, 2019.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt
from segkernel.interfaces.model import Features
from segkernel.nn import (
    ConvModule,
    DecodeHead,
    DecodeHeadArguments,
    LayerConfig,
    adaptive_avg_pool,
    build_activation,
    build_norm,
    is_tracing,
)


class DCM(nn.Module):
    """Dynamic convolution module: (N, in_channels, h, w) -> (N, channels, h, w).

    Args:
        filter_size: Side of the kernels in pixels: the feature map is pooled to a grid of this size and projected.
        fusion: Add a 1x1 convolution at the end.
        in_channels: Channels of the feature map.
        channels: Output channels.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        norm_cfg: Type of the norms; None for no norm.
        act_cfg: Type of the activations; None for no activation.
    """

    def __init__(
        self,
        filter_size: int,
        fusion: bool,
        in_channels: int,
        channels: int,
        conv_cfg: LayerConfig | None = None,
        norm_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | None = None,
    ) -> None:
        super().__init__()
        self.filter_size = filter_size
        # Two branches of the paper's module: one turns the pooled map into kernels, the other reduces the full-size map
        # that these filter. Kernels are signed, hence no norm or activation on the first.
        self.filter_gen_conv = nn.Conv2d(in_channels, channels, 1)
        self.input_redu_conv = ConvModule(
            in_channels, channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg
        )
        self.norm = None if norm_cfg is None else build_norm(norm_cfg, channels)[1]
        self.activate = nn.Identity() if act_cfg is None else build_activation(act_cfg)
        self.fusion_conv = None
        if fusion:
            self.fusion_conv = ConvModule(channels, channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.filter_gen_conv(adaptive_avg_pool(x, self.filter_size))
        out = self._convolve(self.input_redu_conv(x), kernels)
        if self.norm is not None:
            out = self.norm(out)
        out = self.activate(out)
        return out if self.fusion_conv is None else self.fusion_conv(out)

    def _convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Convolve each channel of each image with its own kernel, (N, C, filter_size, filter_size)."""
        # An even kernel has no centre: the reference implementation pads one pixel more at the top and left.
        after = (self.filter_size - 1) // 2
        before = self.filter_size - 1 - after
        padded = F.pad(x, (before, after, before, after))
        if is_tracing():  # exported formats have no convolution with a dynamic number of groups, here N * C
            return _depthwise_by_shifts(padded, kernels, (x.shape[2], x.shape[3]))
        images, filters = padded.flatten(0, 1).unsqueeze(0), kernels.flatten(0, 1).unsqueeze(1)
        return F.conv2d(images, filters, groups=images.shape[1]).view_as(x)


class DMHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        filter_sizes: Side in pixels of the kernels of each `DCM`.
        fusion: Add a 1x1 convolution at the end of each.
    """

    def __init__(
        self,
        filter_sizes: Sequence[PositiveInt] = (1, 3, 5, 7),
        fusion: bool = False,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        self.dcm_modules = nn.ModuleList(
            DCM(size, fusion, self.in_channels, self.channels, **self.layer_cfgs) for size in filter_sizes
        )
        channels = self.in_channels + len(filter_sizes) * self.channels
        self.bottleneck = ConvModule(channels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.bottleneck(torch.cat([x, *(module(x) for module in self.dcm_modules)], 1))


def _depthwise_by_shifts(padded: Tensor, kernels: Tensor, size: tuple[int, int]) -> Tensor:
    """Convolve (N, C, H, W) with kernels (N, C, k, k) as a sum of shifted products, (N, C, *size)."""
    height, width = size
    offsets = itertools.product(range(kernels.shape[2]), range(kernels.shape[3]))
    terms = (padded[:, :, i : i + height, j : j + width] * kernels[:, :, i : i + 1, j : j + 1] for i, j in offsets)
    return functools.reduce(torch.add, terms)
