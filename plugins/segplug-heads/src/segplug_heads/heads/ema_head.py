"""EMANet: feature maps rebuilt from a few bases, which expectation and maximisation find in each image.

Li et al., Expectation-Maximization Attention Networks for Semantic Segmentation, 2019.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments


class EMAModule(nn.Module):
    """(N, channels, h, w) -> the same shape, rebuilt from ``num_bases`` bases; no gradient passes.

    Args:
        channels: Channels of the map.
        num_bases: Number of bases.
        num_stages: Rounds of expectation and maximisation.
        momentum: Share of a training batch's bases in those that the next one starts from.
    """

    bases: Tensor

    def __init__(self, channels: int, num_bases: int, num_stages: int, momentum: float) -> None:
        super().__init__()
        self.num_stages, self.momentum = num_stages, momentum
        bases = torch.empty(1, channels, num_bases).normal_(0, (2 / num_bases) ** 0.5)
        self.register_buffer("bases", F.normalize(bases, dim=1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        pixels, bases = x.flatten(2), self.bases
        for _ in range(self.num_stages):
            shares = (pixels.mT @ bases).softmax(2)
            bases = F.normalize(pixels @ F.normalize(shares, p=1, dim=1), dim=1)
        if self.training:
            self._remember(bases)
        return (bases @ shares.mT).view_as(x)

    def _remember(self, bases: Tensor) -> None:
        """Move the buffer towards the mean of ``bases`` (N, channels, num_bases) over images and processes."""
        mean = bases.mean(0, keepdim=True).to(self.bases.dtype)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(mean)  # the sum serves: only its direction counts
        self.bases.lerp_(F.normalize(mean, dim=1), self.momentum)


class EMAHead(DecodeHead):
    """(N, in_channels, h, w) -> (N, out_channels, h, w).

    Args:
        ema_channels: Channels of the rebuilt map.
        num_bases: Number of bases.
        num_stages: Rounds of expectation and maximisation, one at least.
        concat_input: Join the input to the result and fuse both with one more convolution.
        momentum: Share of a training batch's bases in those that the next one starts from.

    Raises:
        ConfigError: There is no round.
    """

    conformance: ClassVar = {
        "in_channels": 16, "channels": 8, "ema_channels": 8, "num_bases": 4, "num_stages": 2, "num_classes": 4
    }  # fmt: skip

    def __init__(
        self,
        ema_channels: int,
        num_bases: int,
        num_stages: int,
        concat_input: bool = True,
        momentum: float = 0.1,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if num_stages < 1:
            raise ConfigError(Problem(f"{num_stages} rounds find no bases; one is the least", "num_stages"))
        conv, layers = {"conv_cfg": self.conv_cfg}, {"norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        self.ema_in_conv = ConvModule(self.in_channels, ema_channels, 3, padding=1, **conv, **layers)
        self.ema_mid_conv = ConvModule(ema_channels, ema_channels, 1, **conv, act_cfg=None)
        self.ema_mid_conv.requires_grad_(False)  # only the bases' search sees it
        self.ema_module = EMAModule(ema_channels, num_bases, num_stages, momentum)
        self.ema_out_conv = ConvModule(ema_channels, ema_channels, 1, **conv, norm_cfg=self.norm_cfg, act_cfg=None)
        self.bottleneck = ConvModule(ema_channels, self.channels, 3, padding=1, **conv, **layers)
        self.conv_cat = None
        if concat_input:
            joined = self.in_channels + self.channels
            self.conv_cat = ConvModule(joined, self.channels, 3, padding=1, **conv, **layers)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        narrow = self.ema_in_conv(x)
        rebuilt = self.ema_out_conv(self.ema_module(self.ema_mid_conv(narrow)).relu())
        out = self.bottleneck((narrow + rebuilt).relu())
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], 1))
