"""Squeeze-and-excitation: channel attention computed from the global average of a feature map.

Squeeze-and-Excitation Networks, Hu et al., 2018 (https://arxiv.org/abs/1709.01507).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segkernel.nn import ConvModule, LayerConfig, adaptive_avg_pool


class SELayer(nn.Module):
    """Multiply each channel with its attention in [0, 1]: (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the feature map.
        squeeze_channels: Hidden channels; for None ``channels / ratio``, rounded to a multiple of ``divisor``.
        ratio: Reduction of the hidden channels.
        divisor: The hidden channels are a multiple of this.
        bias: Whether the two layers have a bias.
        conv_cfg: Type of the convolutions; None is ``Conv2d``.
        act_cfg: Activations of the two layers, or one for both.
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
        # Rounded as MobileNetV3 does; EfficientNet passes a divisor of 1.
        squeezed = make_divisible(channels // ratio, divisor) if squeeze_channels is None else squeeze_channels
        first, second = act_cfg if isinstance(act_cfg, Sequence) else (act_cfg, act_cfg)
        self.conv1 = ConvModule(channels, squeezed, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=first)
        self.conv2 = ConvModule(squeezed, channels, 1, bias=bias, conv_cfg=conv_cfg, act_cfg=second)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.conv2(self.conv1(adaptive_avg_pool(x, 1)))
        return x * attention


def make_divisible(value: float, divisor: int, min_value: int | None = None, min_ratio: float = 0.9) -> int:
    """Round ``value`` to a multiple of ``divisor``, but not below ``min_value`` nor below ``min_ratio * value``.

    MobileNet's rule for scaled channel counts.
    """
    rounded = max(min_value or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < min_ratio * value else rounded
