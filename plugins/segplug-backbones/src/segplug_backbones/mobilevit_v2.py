"""MobileViTV2: MobileViT with separable self-attention, whose cost is linear in the number of tokens.

    features = MobileViTV2(1.0, out_indices=(1, 2, 3, 4))(torch.rand(2, 3, 512, 512))  # strides 4, 8, 16, 32

Separable Self-attention for Mobile Vision Transformers, Mehta and Rastegari, 2022
(https://arxiv.org/abs/2206.02680). State-dict keys are timm's. The published weights expect BGR images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from segkernel.annotations import Positive, PositiveInt, Probability
from segkernel.nn import ConvModule, LayerConfig, build_activation, resize
from segplug_backbones.mobilevit import (
    Bottleneck,
    OutputStride,
    fold,
    strides_and_dilations,
    unfold,
    whole_patches,
)
from segplug_backbones.squeeze import make_divisible
from segplug_backbones.staged import StagedBackbone

EXPAND_RATIO = 2


class SeparableSelfAttention(nn.Module):
    """Attention of all patches to one context vector, section 3.2: (N, C, P, L) -> the same shape.

    At each of the P pixels of a patch, L scores weigh the keys of the patches into one context vector.
    """

    def __init__(self, dim: int, attn_drop_rate: float) -> None:
        super().__init__()
        self.dim = dim
        self.qkv_proj = nn.Conv2d(dim, 1 + 2 * dim, 1)
        self.attn_drop = nn.Dropout(attn_drop_rate)
        self.out_proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv_proj(x).split([1, self.dim, self.dim], 1)
        scores = self.attn_drop(query.softmax(-1))
        context = (key * scores).sum(-1, keepdim=True)
        return self.out_proj(value.relu() * context)


class FeedForward(nn.Module):
    """Two 1x1 convolutions: (N, C, P, L) -> the same shape."""

    def __init__(self, dim: int, hidden: int, drop_rate: float, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = build_activation(act_cfg)
        self.drop = nn.Dropout(drop_rate)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(self.act(self.fc1(x))))


class LinearTransformerLayer(nn.Module):
    """Separable attention and a feed-forward network, each after a norm: (N, C, P, L) -> the same shape."""

    def __init__(self, dim: int, hidden: int, drop_rate: float, attn_drop_rate: float, act_cfg: LayerConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, dim), nn.GroupNorm(1, dim)
        self.attn = SeparableSelfAttention(dim, attn_drop_rate)
        self.mlp = FeedForward(dim, hidden, drop_rate, act_cfg)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class MobileViTV2Block(nn.Module):
    """A depthwise convolution and a transformer over patches: (N, channels, H, W) -> the same shape."""

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        depth: int,
        ffn_multiplier: float,
        patch_size: int,
        kernel_size: int,
        drop_rate: float,
        attn_drop_rate: float,
        layers: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.patch_size, act_cfg = patch_size, layers["act_cfg"]
        self.conv_kxk = ConvModule(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, **layers)
        self.conv_1x1 = nn.Conv2d(channels, dim, 1, bias=False)
        hidden = int(ffn_multiplier * dim) // 16 * 16
        self.transformer = nn.Sequential(
            *(LinearTransformerLayer(dim, hidden, drop_rate, attn_drop_rate, act_cfg) for _ in range(depth))
        )
        self.norm = nn.GroupNorm(1, dim)
        self.conv_proj = ConvModule(dim, channels, 1, **{**layers, "act_cfg": None})

    def forward(self, x: Tensor) -> Tensor:
        local = whole_patches(self.conv_1x1(self.conv_kxk(x)), self.patch_size)
        tokens = unfold(local, self.patch_size).permute(0, 3, 1, 2)  # (N, C, P, L)
        tokens = self.norm(self.transformer(tokens)).permute(0, 2, 3, 1)
        folded = fold(tokens, (local.shape[2], local.shape[3]), self.patch_size)
        return self.conv_proj(resize(folded, x.shape[2:]))


class MobileViTV2(StagedBackbone):
    """Images (N, in_channels, H, W) to one feature map for each of ``out_indices``, at strides 2, 4, 8, 16, 32.

    Odd sizes are rounded up.

    Args:
        width_multiplier: Multiplier of all channels; published from 0.5 to 2 in steps of 0.25.
        in_channels: Channels of the image.
        output_stride: Largest stride; stages beyond it have dilated convolutions instead.
        out_indices: The stages to return, counted from 0.
        depths: Transformer layers of the last three stages.
        dims: Channels of the tokens of these, before they are multiplied.
        ffn_multiplier: Hidden width of the feed-forward networks, as a multiple of the channels of a token.
        patch_size: Side of a patch, in pixels of a map.
        kernel_size: Side of the convolutions before the transformers.
        drop_rate: Dropout rate in the transformer layers.
        attn_drop_rate: Dropout rate of the attention weights.
        norm_cfg: Type of the norms after convolutions and its arguments.
        act_cfg: Type of the activations.
        pretrained: Weights to load: a file, an address, or a known name such as ``torchvision://resnet50``.

    Raises:
        ConfigError: When an argument is out of range.
    """

    conformance: ClassVar = (
        {"width_multiplier": 0.5, "out_indices": (1, 2, 3, 4)},
        {"width_multiplier": 0.25, "output_stride": 16, "depths": (1, 1, 1)},
    )

    def __init__(
        self,
        width_multiplier: Positive = 1.0,
        in_channels: PositiveInt = 3,
        output_stride: OutputStride = 32,
        out_indices: Sequence[int] = (0, 1, 2, 3, 4),
        depths: Sequence[PositiveInt] = (2, 4, 3),
        dims: Sequence[PositiveInt] = (128, 192, 256),
        ffn_multiplier: Positive = 2,
        patch_size: PositiveInt = 2,
        kernel_size: PositiveInt = 3,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        norm_cfg: Mapping[str, Any] = {"type": "BN"},
        act_cfg: Mapping[str, Any] = {"type": "SiLU"},
        pretrained: str | None = None,
    ) -> None:
        channels = widths(width_multiplier)
        layers: dict[str, Any] = {"norm_cfg": norm_cfg, "act_cfg": act_cfg}
        stem = ConvModule(in_channels, channels[0], 3, stride=2, padding=1, **layers)
        stages: list[nn.Module] = []
        for i, (stride, dilation) in enumerate(strides_and_dilations(output_stride)):
            first, width = channels[i], channels[i + 1]
            options: dict[str, Any] = {"expand_ratio": EXPAND_RATIO, "dilation": dilation, "layers": layers}
            blocks: list[nn.Module] = [Bottleneck(first, width, stride=stride, **options)]
            if i == 1:
                blocks.append(Bottleneck(width, width, stride=1, **options))
            elif i > 1:
                transformer = MobileViTV2Block(
                    width,
                    dim=make_divisible(dims[i - 2] * width_multiplier, 8),
                    depth=depths[i - 2],
                    ffn_multiplier=ffn_multiplier,
                    patch_size=patch_size,
                    kernel_size=kernel_size,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    layers=layers,
                )
                blocks.append(transformer)
            stages.append(nn.Sequential(*blocks))
        super().__init__(stem, stages, channels[1:], 2, out_indices, pretrained=pretrained)
        self.strides = tuple(min(2 ** (i + 1), output_stride) for i in self.out_indices)


def widths(multiplier: float) -> list[int]:
    """Return the channels of the stem and the five stages."""
    stem = make_divisible(min(max(32 * multiplier, 16), 64), 8, 16)
    return [
        stem,
        make_divisible(64 * multiplier, 16),
        *(make_divisible(channels * multiplier, 8) for channels in (128, 256, 384, 512)),
    ]
