"""DMNet: depthwise convolutions whose kernels are made from the image itself.

He, Deng and Qiao, Dynamic Multi-Scale Filters for Semantic Segmentation, 2019.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.interfaces.model import Features
from segkernel.nn import (
    ConvModule,
    DecodeHead,
    DecodeHeadArguments,
    LayerConfig,
    adaptive_avg_pool,
    build_activation,
    build_norm,
)
from segkernel.nn.pool import is_tracing


class DCM(nn.Module):
    """Dynamic convolution module: (N, in_channels, h, w) -> (N, channels, h, w).

    Args:
        filter_size: Side of the kernels, which are the input averaged into so many cells, and projected.
        fusion: One more convolution at the end.
        in_channels: Channels of the input.
        channels: Channels of the result.
        conv_cfg: Kind of convolution.
        norm_cfg: Kind of norm.
        act_cfg: Kind of activation.
    """

    def __init__(
        self,
        filter_size: int,
        fusion: bool,
        in_channels: int,
        channels: int,
        conv_cfg: LayerConfig | None,
        norm_cfg: LayerConfig | None,
        act_cfg: LayerConfig | None,
    ) -> None:
        super().__init__()
        self.filter_size = filter_size
        layers = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.filter_gen_conv = nn.Conv2d(in_channels, channels, 1)
        self.input_redu_conv = ConvModule(in_channels, channels, 1, **layers)
        self.norm = None if norm_cfg is None else build_norm(norm_cfg, channels)[1]
        self.activate = nn.Identity() if act_cfg is None else build_activation(act_cfg)
        self.fusion_conv = ConvModule(channels, channels, 1, **layers) if fusion else None

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.filter_gen_conv(adaptive_avg_pool(x, self.filter_size))
        out = self._convolve(self.input_redu_conv(x), kernels)
        if self.norm is not None:
            out = self.norm(out)
        out = self.activate(out)
        return out if self.fusion_conv is None else self.fusion_conv(out)

    def _convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """Return each channel of each image convolved with its own kernel; an even one reaches further up and left."""
        after = (self.filter_size - 1) // 2
        before = self.filter_size - 1 - after
        padded = F.pad(x, (before, after, before, after))
        if is_tracing():  # no file format knows a convolution with a number of groups that is open, as the batch is
            return _sum_of_shifts(padded, kernels, (x.shape[2], x.shape[3]))
        images, filters = padded.flatten(0, 1).unsqueeze(0), kernels.flatten(0, 1).unsqueeze(1)
        return F.conv2d(images, filters, groups=images.shape[1]).view_as(x)


class DMHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        filter_sizes: Sides of the kernels of the parallel convolutions.
        fusion: One more convolution at the end of each.
    """

    def __init__(
        self,
        filter_sizes: Sequence[int] = (1, 3, 5, 7),
        fusion: bool = False,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        layers = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.dcm_modules = nn.ModuleList(
            DCM(size, fusion, self.in_channels, self.channels, **layers) for size in filter_sizes
        )
        joined = self.in_channels + len(filter_sizes) * self.channels
        self.bottleneck = ConvModule(joined, self.channels, 3, padding=1, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        return self.bottleneck(torch.cat([x, *(module(x) for module in self.dcm_modules)], 1))


def _sum_of_shifts(padded: Tensor, kernels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the convolution of (N, C, H, W) with kernels (N, C, k, k), at ``size``."""
    height, width = size
    places = itertools.product(range(kernels.shape[2]), range(kernels.shape[3]))
    terms = (padded[:, :, i : i + height, j : j + width] * kernels[:, :, i : i + 1, j : j + 1] for i, j in places)
    return functools.reduce(torch.add, terms)
