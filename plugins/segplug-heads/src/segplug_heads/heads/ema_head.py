"""EMANet: feature maps reconstructed from a few bases, estimated in each image by expectation-maximization.

Expectation-Maximization Attention Networks for Semantic Segmentation, Li et al., 2019
(https://arxiv.org/abs/1907.13426).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from typing_extensions import Unpack

from segkernel.annotations import PositiveInt, Probability
from segkernel.errors import ConfigError, Problem
from segkernel.interfaces.model import Features
from segkernel.nn import ConvModule, DecodeHead, DecodeHeadArguments


class EMAModule(nn.Module):
    """(N, channels, h, w) -> the same shape, reconstructed from ``num_bases`` bases; without a gradient.

    Args:
        channels: Channels of the feature map.
        num_bases: Number of bases, K in the paper.
        num_stages: Iterations of expectation-maximization, T in the paper.
        momentum: Weight of a training batch's bases in the moving average that the iterations start from.
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
            # E step: the responsibilities of the bases for each pixel. M step: bases as weighted means of the pixels.
            responsibilities = (pixels.mT @ bases).softmax(2)
            bases = F.normalize(pixels @ F.normalize(responsibilities, p=1, dim=1), dim=1)
        if self.training:
            self._update_bases(bases)
        return (bases @ responsibilities.mT).view_as(x)

    def _update_bases(self, bases: Tensor) -> None:
        """Update the moving average with the mean of ``bases`` (N, channels, num_bases) over images and processes."""
        mean = bases.mean(0, keepdim=True).to(self.bases.dtype)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(mean)  # a sum is enough: it is normalised next
        self.bases.lerp_(F.normalize(mean, dim=1), self.momentum)


class EMAHead(DecodeHead):
    """(N, in_channels, h, w) -> logits (N, out_channels, h, w).

    Args:
        ema_channels: Channels of the reconstructed map.
        num_bases: Number of bases.
        num_stages: Iterations of expectation-maximization, at least one.
        concat_input: Concatenate input and result, and fuse them with another convolution.
        momentum: Weight of a training batch's bases in the moving average that the iterations start from.

    Raises:
        ConfigError: ``num_stages`` is less than one.
    """

    conformance: ClassVar = {
        "in_channels": 16, "channels": 8, "ema_channels": 8, "num_bases": 4, "num_stages": 2, "num_classes": 4
    }  # fmt: skip

    def __init__(
        self,
        ema_channels: PositiveInt,
        num_bases: PositiveInt,
        num_stages: PositiveInt,
        concat_input: bool = True,
        momentum: Probability = 0.1,
        **kwargs: Unpack[DecodeHeadArguments],
    ) -> None:
        super().__init__(**kwargs)
        if num_stages < 1:
            raise ConfigError(Problem(f"{num_stages} iterations; at least 1 is needed", "num_stages"))
        conv_cfg, norm_cfg = self.conv_cfg, self.norm_cfg
        self.ema_in_conv = ConvModule(self.in_channels, ema_channels, 3, padding=1, **self.layer_cfgs)
        # The authors' conv1: no norm and no activation, as expectation-maximization fits signed features.
        self.ema_mid_conv = ConvModule(ema_channels, ema_channels, 1, conv_cfg=conv_cfg, act_cfg=None)
        # Only the estimation of the bases uses it, and that has no gradient: it keeps its initial weights.
        self.ema_mid_conv.requires_grad_(False)
        self.ema_module = EMAModule(ema_channels, num_bases, num_stages, momentum)
        self.ema_out_conv = ConvModule(
            ema_channels, ema_channels, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None
        )
        self.bottleneck = ConvModule(ema_channels, self.channels, 3, padding=1, **self.layer_cfgs)
        self.conv_cat = None
        if concat_input:
            self.conv_cat = ConvModule(self.in_channels + self.channels, self.channels, 3, padding=1, **self.layer_cfgs)

    def forward_feature(self, features: Features) -> Tensor:
        x = self.select(features)
        identity = self.ema_in_conv(x)
        reconstructed = self.ema_out_conv(self.ema_module(self.ema_mid_conv(identity)).relu())
        out = self.bottleneck((identity + reconstructed).relu())
        return out if self.conv_cat is None else self.conv_cat(torch.cat([x, out], 1))
