"""EfficientFormerV2: convolutional blocks with local feed-forward parts, attention at the end of the last two stages.

    features = EfficientFormerV2("s0")(torch.rand(2, 3, 512, 512))  # 32, 48, 96, 176 channels at strides 4, 8, 16, 32

Rethinking Vision Transformers for MobileNet Size and Speed, Li et al., 2022 (https://arxiv.org/abs/2212.08059).
State-dict keys are timm's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from segkernel.annotations import NonNegative, PositiveInt, Probability
from segkernel.nn import (
    DropPath,
    LayerConfig,
    is_tracing,
    linear_drop_path_rates,
    resize,
    trunc_normal_init,
)
from segplug_backbones.staged import LayerScale, StagedArguments, StagedBackbone, conv_norm, find_arch


@dataclass(frozen=True)
class EfficientFormerV2Arch:
    """A network.

    Args:
        channels: Channels of the stages.
        attention: Blocks with attention at the end of each of the last two stages.
        expansions: Ratio of the hidden channels of each block, stage by stage.
    """

    channels: Sequence[PositiveInt]
    attention: PositiveInt
    expansions: Sequence[Sequence[PositiveInt]]


ARCHS = {
    "s0": EfficientFormerV2Arch((32, 48, 96, 176), 2, ((4,) * 2, (4,) * 2, (4, 3, 3, 3, 4, 4), (4, 3, 3, 4))),
    "s1": EfficientFormerV2Arch(
        (32, 48, 120, 224), 2, ((4,) * 3, (4,) * 3, (4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4))
    ),
    "s2": EfficientFormerV2Arch(
        (32, 64, 144, 288), 4, ((4,) * 4, (4,) * 4, (4, 4, *(3,) * 6, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4))
    ),
    "l": EfficientFormerV2Arch(
        (40, 80, 192, 384), 6, ((4,) * 5, (4,) * 5, (*(4,) * 4, *(3,) * 7, *(4,) * 4), (4, 4, 4, 3, 3, 3, 3, 4, 4, 4))
    ),
}
"""Appendix of the paper."""
ACT_CFG: LayerConfig = {"type": "GELU"}
HEADS, VALUE_RATIO = 8, 4
"""Heads of the attention, and how many times wider values are than keys."""


class EfficientFormerV2(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``; odd sizes are rounded up.

    Args:
        arch: ``s0``, ``s1``, ``s2`` or ``l``, or the values of an `EfficientFormerV2Arch`.
        in_channels: Channels of the image.
        img_size: Side in pixels of the images whose pairs of positions have an attention bias. For other sizes, the
            biases are interpolated, as the authors do: 224 for weights of classification, 512 for those of CGRSeg.
        drop_path_rate: Drop path rate of the last block; it rises linearly from 0. Published: 0 for ``s0`` and ``s1``,
            0.02 for ``s2``, 0.1 for ``l``.
        layer_scale_init_value: Initial layer scale.
        norm_cfg: Type of the norms and its arguments.
        **kwargs: See `StagedBackbone`; the maps have strides 4, 8, 16 and 32.
    """

    conformance: ClassVar = (
        {
            "arch": {"channels": (8, 8, 12, 16), "attention": 1, "expansions": ((2,), (2,), (3, 2), (2,))},
            "img_size": 64,
        },
    )

    def __init__(
        self,
        arch: Literal["s0", "s1", "s2", "l"] | EfficientFormerV2Arch = "s0",
        in_channels: PositiveInt = 3,
        img_size: PositiveInt = 224,
        drop_path_rate: Probability = 0.0,
        layer_scale_init_value: NonNegative = 1e-5,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        **kwargs: Unpack[StagedArguments],
    ) -> None:
        net = find_arch(arch, ARCHS)
        channels, attention, expansions = net.channels, net.attention, net.expansions
        rates = iter(linear_drop_path_rates(drop_path_rate, sum(map(len, expansions))))
        stages = []
        for i, ratios in enumerate(expansions):
            side = -(-img_size // 2 ** (i + 2))  # of the map of this stage
            downsample: nn.Module = nn.Identity()
            if i:
                before = -(-img_size // 2 ** (i + 1))
                downsample = Downsample(channels[i - 1], channels[i], before if i == 3 else None, norm_cfg)
            blocks = []
            for j, ratio in enumerate(ratios):
                mixer = None
                if i >= 2 and j >= len(ratios) - attention:
                    mixer = Attention(channels[i], side, stride=2 if i == 2 else 1, norm_cfg=norm_cfg)
                blocks.append(Block(channels[i], ratio, mixer, next(rates), layer_scale_init_value, norm_cfg))
            stages.append(Stage(downsample, blocks))
        super().__init__(Stem(in_channels, channels[0], norm_cfg), stages, channels, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                trunc_normal_init(module)


class Stem(nn.Module):
    """Two strided 3x3 convolutions: (N, C, H, W) -> (N, channels, ~H / 4, ~W / 4)."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv1 = conv_norm(in_channels, channels // 2, 3, stride=2, norm_cfg=norm_cfg, act_cfg=ACT_CFG)
        self.conv2 = conv_norm(channels // 2, channels, 3, stride=2, norm_cfg=norm_cfg, act_cfg=ACT_CFG)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


class Stage(nn.Module):
    """Downsampling and blocks."""

    def __init__(self, downsample: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample, self.blocks = downsample, nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Downsample(nn.Module):
    """Strided convolution, with ``side`` plus strided attention: (N, C, H, W) -> (N, D, ~H / 2, ~W / 2).

    Args:
        in_channels: C.
        channels: D.
        side: Side of the map whose pairs of positions have an attention bias; None for no attention.
        norm_cfg: Type of the norms.
    """

    def __init__(self, in_channels: int, channels: int, side: int | None, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.conv = conv_norm(in_channels, channels, 3, stride=2, norm_cfg=norm_cfg)
        self.attn = None if side is None else StridedAttention(in_channels, channels, side, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.attn is None else self.attn(x) + self.conv(x)


class Block(nn.Module):
    """Attention, if there is a mixer, and feed-forward part, with residual connections: (N, C, H, W) -> the same."""

    def __init__(
        self,
        channels: int,
        expansion: int,
        mixer: Attention | None,
        drop_path_rate: float,
        layer_scale_init_value: float,
        norm_cfg: LayerConfig,
    ) -> None:
        super().__init__()
        self.token_mixer = mixer
        self.ls1 = None if mixer is None else LayerScale(channels, init_value=layer_scale_init_value)
        self.mlp = FeedForward(channels, expansion, norm_cfg)
        self.ls2 = LayerScale(channels, init_value=layer_scale_init_value)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self.token_mixer is not None and self.ls1 is not None:
            x = x + self.drop_path(self.ls1(self.token_mixer(x)))
        return x + self.drop_path(self.ls2(self.mlp(x)))


class FeedForward(nn.Module):
    """Pointwise, depthwise 3x3 and pointwise convolution, figure 2 of the paper: (N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, expansion: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        hidden = expansion * channels
        self.fc1 = conv_norm(channels, hidden, 1, norm_cfg=norm_cfg, act_cfg=ACT_CFG)
        self.mid = conv_norm(hidden, hidden, 3, groups=hidden, norm_cfg=norm_cfg, act_cfg=ACT_CFG)
        self.fc2 = conv_norm(hidden, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.mid(self.fc1(x)))


class BiasedAttention(nn.Module):
    """The base of attentions with a bias for each distance of rows and columns, of maps of ``side`` x ``side`` keys."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, side**2))

    def resize_weight(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """Interpolate biases of maps of another size, see `segkernel.nn.fit_shapes`."""
        before, after = math.isqrt(value.shape[-1]), math.isqrt(shape[-1])
        if name != "attention_biases" or value.shape != (HEADS, before**2):
            return None
        square = value.unflatten(1, (before, before))[None]
        return resize(square, (after, after), mode="bicubic")[0].flatten(1)


class Attention(BiasedAttention):
    """Attention with talking heads, local values and attention biases: (N, channels, H, W) -> the same shape.

    Args:
        channels: Channels of the map.
        side: Side of the map whose pairs of positions have an attention bias.
        stride: Stride of the attention, whose result is enlarged again.
        norm_cfg: Type of the norms.
    """

    KEY = 32
    """Channels of a key."""

    def __init__(self, channels: int, side: int, stride: int, norm_cfg: LayerConfig) -> None:
        super().__init__(-(-side // stride))
        values = HEADS * VALUE_RATIO * self.KEY
        self.stride_conv = None
        if stride > 1:
            self.stride_conv = conv_norm(channels, channels, 3, stride=stride, groups=channels, norm_cfg=norm_cfg)
        self.q = conv_norm(channels, HEADS * self.KEY, 1, norm_cfg=norm_cfg)
        self.k = conv_norm(channels, HEADS * self.KEY, 1, norm_cfg=norm_cfg)
        self.v = conv_norm(channels, values, 1, norm_cfg=norm_cfg)
        self.v_local = conv_norm(values, values, 3, groups=values, norm_cfg=norm_cfg)
        self.talking_head1, self.talking_head2 = nn.Conv2d(HEADS, HEADS, 1), nn.Conv2d(HEADS, HEADS, 1)
        self.act = nn.GELU()
        self.proj = conv_norm(values, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        if self.stride_conv is not None:
            x = self.stride_conv(x)
        query, key, value = self.q(x), self.k(x), self.v(x)
        logits = _heads(query).transpose(2, 3) @ _heads(key) * self.KEY**-0.5  # (N, HEADS, h * w, h * w)
        logits = logits + _attention_bias(self.attention_biases, self.side, self.side, logits)
        attention = self.talking_head2(self.talking_head1(logits).softmax(-1))
        y = (_heads(value) @ attention.transpose(2, 3)).flatten(1, 2).unflatten(2, x.shape[2:])
        y = y + self.v_local(value)
        if self.stride_conv is not None:
            y = resize(y, size)
        return self.proj(self.act(y))


class StridedAttention(BiasedAttention):
    """Attention of every other pixel to all, which halves the map: (N, in_channels, H, W) -> (N, channels, H/2, W/2).

    Args:
        in_channels: Input channels.
        channels: Output channels.
        side: Side of the input map whose positions have attention biases.
        norm_cfg: Type of the norms.
    """

    KEY = 16
    """Channels of a key."""

    def __init__(self, in_channels: int, channels: int, side: int, norm_cfg: LayerConfig) -> None:
        super().__init__(side)
        values = HEADS * VALUE_RATIO * self.KEY
        self.q = LocalGlobalQuery(in_channels, HEADS * self.KEY, norm_cfg)
        self.k = conv_norm(in_channels, HEADS * self.KEY, 1, norm_cfg=norm_cfg)
        self.v = conv_norm(in_channels, values, 1, norm_cfg=norm_cfg)
        self.v_local = conv_norm(values, values, 3, stride=2, groups=values, norm_cfg=norm_cfg)
        self.act = nn.GELU()
        self.proj = conv_norm(values, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.q(x), self.k(x), self.v(x)
        logits = _heads(query).transpose(2, 3) @ _heads(key) * self.KEY**-0.5  # (N, HEADS, H * W / 4, H * W)
        logits = logits + _attention_bias(self.attention_biases, -(-self.side // 2), self.side, logits)
        y = (_heads(value) @ logits.softmax(-1).transpose(2, 3)).flatten(1, 2).unflatten(2, query.shape[2:])
        return self.proj(self.act(y + self.v_local(value)))


class LocalGlobalQuery(nn.Module):
    """Every other pixel plus a strided depthwise convolution, projected: (N, C, H, W) -> (N, channels, ~H/2, ~W/2)."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: LayerConfig) -> None:
        super().__init__()
        self.local = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels)
        self.proj = conv_norm(in_channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.local(x) + x[:, :, ::2, ::2])


def _heads(x: Tensor) -> Tensor:
    """(N, HEADS * C, H, W) -> (N, HEADS, C, H * W)."""
    return x.flatten(2).unflatten(1, (HEADS, -1))


def _attention_bias(biases: Tensor, queries: int, keys: int, logits: Tensor) -> Tensor:
    """Return the bias of each pair of positions, (1, HEADS, h * w, H * W), at the size of the logits.

    Args:
        biases: (HEADS, keys * keys): by distance of rows, then of columns.
        queries: Side of the map of queries.
        keys: Side of the map of keys.
        logits: (N, HEADS, h * w, H * W).
    """
    step = -(-keys // queries)
    ends = torch.arange(keys, device=biases.device)
    distance = (step * ends[:queries, None] - ends).abs()  # along one axis, (queries, keys)
    index = distance[:, None, :, None] * keys + distance[None, :, None, :]  # (rows, columns, rows, columns)
    bias = biases[:, index.flatten(2).flatten(0, 1)][None]
    if is_tracing() or bias.shape[2:] != logits.shape[2:]:
        bias = resize(bias, logits.shape[2:], mode="bicubic")
    return bias
