"""Layers that several heads have."""

from __future__ import annotations

from typing import Any

from torch import nn

from segkernel.nn import ConvModule


def conv_sequence(in_channels: int, channels: int, count: int, dilation: int = 1, **layers: Any) -> nn.Sequential:
    """Return ``count`` 3x3 convolutions that keep the size, each with its norm and ReLU: (N, in_channels, H, W) to
    (N, channels, H, W); the identity for a count of 0.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        count: Number of convolutions.
        dilation: Their dilation.
        **layers: ``norm_cfg`` and others of `ConvModule`.
    """
    inputs = [in_channels, *[channels] * count][:count]
    convs = (ConvModule(each, channels, 3, padding=dilation, dilation=dilation, **layers) for each in inputs)
    return nn.Sequential(*convs)
