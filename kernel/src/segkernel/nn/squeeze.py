"""Weighting channels by what the whole map holds.

Squeeze-and-Excitation Networks, Hu et al., 2018 (https://arxiv.org/abs/1709.01507); its split form: ResNeSt, Zhang et
al., 2020 (https://arxiv.org/abs/2004.08955).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segkernel.nn.conv_module import ConvModule
from segkernel.nn.layers import LayerConfig, make_divisible
from segkernel.nn.pool import adaptive_avg_pool


class SELayer(nn.Module):
    """(N, channels, H, W) -> the same shape: each channel times a factor that all of them decide.

    Args:
        channels: Of the map.
        squeeze_channels: Between the two layers; for None, ``channels / ratio`` as a multiple of ``divisor``.
        ratio: See there.
        divisor: See there.
        bias: Of the two layers.
        conv_cfg: Kind of convolution.
        act_cfg: Behind the first and the second layer, or one for both.
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int | None = None,
        ratio: int = 16,
        divisor: int = 8,
        bias: bool | Literal["auto"] = "auto",
        conv_cfg: LayerConfig | None = None,
        act_cfg: LayerConfig | Sequence[LayerConfig] = ({"type": "ReLU"}, {"type": "HSigmoid"}),
    ) -> None:
        super().__init__()
        inner = make_divisible(channels // ratio, divisor) if squeeze_channels is None else squeeze_channels
        first, second = act_cfg if isinstance(act_cfg, Sequence) else (act_cfg, act_cfg)
        self.conv1 = ConvModule(channels, inner, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=first)
        self.conv2 = ConvModule(inner, channels, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=second)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(adaptive_avg_pool(x, 1)))


class RSoftmax(nn.Module):
    """(N, radix * C, 1, 1) -> the same shape: softmax over ``radix`` splits, sigmoid where there is only one.

    Comes in as (groups, radix, C / groups) channels, goes out as (radix, groups, C / groups).
    """

    def __init__(self, radix: int, groups: int) -> None:
        super().__init__()
        self.radix, self.groups = radix, groups

    def forward(self, x: Tensor) -> Tensor:
        if self.radix == 1:
            return x.sigmoid()
        return x.unflatten(1, (self.groups, self.radix, -1)).transpose(1, 2).softmax(1).flatten(1, 3)
