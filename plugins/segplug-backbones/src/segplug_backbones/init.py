"""Initialisation that several transformers with convolutions share."""

from __future__ import annotations

import math

from torch import nn

from segkernel.nn import normal_init, trunc_normal_init


def pvt_init(module: nn.Module) -> None:
    """Draw the weights of one layer as PVT does (Wang et al., 2021), and Twins, MiT and MSCAN after it.

    A truncated normal distribution of standard deviation 0.02 for linear layers, He et al.'s normal distribution by
    fan-out for convolutions. For ``module.apply``.
    """
    if isinstance(module, nn.Linear):
        trunc_normal_init(module, std=0.02)
    elif isinstance(module, nn.Conv2d):
        # Per group: the fan-out of a depthwise convolution is that of one kernel.
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        normal_init(module, std=math.sqrt(2.0 / fan_out))
