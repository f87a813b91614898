"""Global context block: one context vector per image, added to every pixel or multiplied with it.

GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, Cao et al., 2019
(https://arxiv.org/abs/1904.11492). State-dict keys are MMCV's: ``conv_mask``, ``channel_add_conv``,
``channel_mul_conv``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt
from segkernel.errors import ConfigError, Problem
from segkernel.nn.init import kaiming_init, zero_bias

Fusion = Literal["channel_add", "channel_mul"]


class ContextBlock(nn.Module):
    """(N, in_channels, h, w) -> the same shape.

    Args:
        in_channels: Channels of the feature map.
        ratio: Hidden channels of the transforms, as a fraction of ``in_channels``.
        pooling_type: The context is the mean over pixels, with learnt attention weights (``att``) or without (``avg``).
        fusion_types: ``channel_add``, ``channel_mul`` or both; the multiplication comes first.

    Raises:
        ConfigError: A pooling or fusion type is unknown, or no fusion type is given.
    """

    abbreviation: ClassVar[str] = "context_block"
    conformance: ClassVar = {"in_channels": 8, "ratio": 0.25}

    def __init__(
        self,
        in_channels: PositiveInt,
        ratio: Positive,
        pooling_type: Literal["att", "avg"] = "att",
        fusion_types: Sequence[Fusion] = ("channel_add",),
    ) -> None:
        super().__init__()
        if pooling_type not in ("att", "avg"):
            raise ConfigError(Problem(f"{pooling_type!r} is neither att nor avg", "pooling_type"))
        if not fusion_types or not set(fusion_types) <= {"channel_add", "channel_mul"}:
            raise ConfigError(Problem(f"{list(fusion_types)}: channel_add, channel_mul or both", "fusion_types"))
        self.conv_mask = None
        if pooling_type == "att":
            self.conv_mask = nn.Conv2d(in_channels, 1, 1)
            kaiming_init(self.conv_mask)
        inner = int(in_channels * ratio)
        self.channel_add_conv = _transform(in_channels, inner) if "channel_add" in fusion_types else None
        self.channel_mul_conv = _transform(in_channels, inner) if "channel_mul" in fusion_types else None

    def forward(self, x: Tensor) -> Tensor:
        context = self.pool(x)
        if self.channel_mul_conv is not None:
            x = x * self.channel_mul_conv(context).sigmoid()
        return x if self.channel_add_conv is None else x + self.channel_add_conv(context)

    def pool(self, x: Tensor) -> Tensor:
        """Return the context vector, (N, in_channels, 1, 1)."""
        if self.conv_mask is None:
            return x.mean((2, 3), keepdim=True)
        weights = self.conv_mask(x).flatten(2).softmax(2)
        return (x.flatten(2) @ weights.mT).unsqueeze(3)


def _transform(channels: int, inner: int) -> nn.Sequential:
    last = nn.Conv2d(inner, channels, 1)
    # So a block that adds starts as the identity, and one that multiplies starts with sigmoid(0) = 1/2.
    nn.init.zeros_(last.weight)
    zero_bias(last)
    return nn.Sequential(nn.Conv2d(channels, inner, 1), nn.LayerNorm([inner, 1, 1]), nn.ReLU(inplace=True), last)
